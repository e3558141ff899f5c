// A client that closes first in two functions, and forgets connections that a third one opened. Arguments: the port of the
// server, and of a server that closes first.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))

static volatile int calls;

NOINLINE static int open_connection(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        perror("connect");
        exit(1);
    }
    calls++;
    return fd;
}

NOINLINE static void release_to_pool(int fd) {
    close(fd);
    calls++;
}

NOINLINE static void handle_request(int port) {
    int fd = open_connection(port);
    release_to_pool(fd);
    calls++;
}

NOINLINE static void expire_session(int port) {
    int fd = open_connection(port);
    close(fd);
    calls++;
}

NOINLINE static void forget_session(int port) {
    open_connection(port);
    calls++;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    for (int n = 0; n < 20; n++) handle_request(atoi(argv[1]));
    for (int n = 0; n < 5; n++) expire_session(atoi(argv[1]));
    for (int n = 0; n < 3; n++) forget_session(atoi(argv[2]));
    puts("done");
    fflush(stdout);
    // Until its standard input is closed.
    while (getchar() != EOF) {}
    return 0;
}
