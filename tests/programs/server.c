// A server that accepts connections in two functions: one closes them, the other one forgets them. Argument: 4 or 6, the version
// of IP. It prints its port, and `done` once it has accepted all.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))

static volatile int calls;

NOINLINE static int accept_connection(int listener) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) {
        perror("accept");
        exit(1);
    }
    calls++;
    return fd;
}

NOINLINE static void serve_request(int listener) {
    int fd = accept_connection(listener);
    char byte;
    while (read(fd, &byte, 1) > 0) {}
    close(fd);
    calls++;
}

NOINLINE static void forget_request(int listener) {
    accept_connection(listener);
    calls++;
}

NOINLINE static int listen_on_loopback(int version) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int listener = socket(version == 6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
    struct sockaddr *at = version == 6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4;
    socklen_t length = version == 6 ? sizeof v6 : sizeof v4;
    if (listener < 0 || bind(listener, at, length) != 0 || listen(listener, 64) != 0) {
        perror("listen");
        exit(1);
    }
    getsockname(listener, at, &length);
    // The port is at the same place in both.
    printf("%d\n", ntohs(version == 6 ? v6.sin6_port : v4.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    int listener = listen_on_loopback(atoi(argv[1]));
    for (int n = 0; n < 20; n++) serve_request(listener);
    for (int n = 0; n < 3; n++) forget_request(listener);
    puts("done");
    fflush(stdout);
    // Until its standard input is closed.
    while (getchar() != EOF) {}
    return 0;
}
