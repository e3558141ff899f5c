"""As pool.c, in Python: `python3 -X perf`, from 3.12 on."""

import socket
import sys


def open_connection(port):
    return socket.create_connection(("127.0.0.1", port))


def release_to_pool(connection):
    connection.close()


def handle_request(port):
    release_to_pool(open_connection(port))


def expire_session(port):
    open_connection(port).close()


forgotten = []


def forget_session(port):
    forgotten.append(open_connection(port))


for _ in range(20):
    handle_request(int(sys.argv[1]))
for _ in range(5):
    expire_session(int(sys.argv[1]))
for _ in range(3):
    forget_session(int(sys.argv[2]))
print("done", flush=True)
# Until its standard input is closed.
sys.stdin.read()
