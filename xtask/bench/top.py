#!/usr/bin/env python3
"""What the screen costs: sockets and connections in, milliseconds to the first frame, CPU, bytes and memory out.

    cargo build --release && sudo unshare --net python3 xtask/bench/top.py [--sockets 120000] [--seconds 20] [--busy]

As many TIME_WAIT sockets as asked for are made first; the namespace's tcp_max_tw_buckets keeps their number there while
two processes go on with short loopback connections as fast as they can. `top` runs on a terminal of 160 columns and 50
lines of its own and is asked nothing. With --busy connections are made while the first frames come, too. All of `top`'s
threads count; its eBPF programs run in the kernel, on the time of those who connect. Needs root.
"""

import argparse
import fcntl
import os
import pty
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import termios
import time

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
COLUMNS, LINES = 160, 50
# Each as many connections as there are ports, before one address is used again.
ADDRESSES = 40
ROUNDS = 5
# How long connections are made around a first frame with --busy.
BUSY_SECONDS = 10


def set_sysctl(name, value):
    with open(f"/proc/sys/net/ipv4/{name}", "w") as file:
        file.write(str(value))


def connect(part, count, until, report):
    """Short connections closed by the client, from a part of the addresses of its own, `count` of them or until then."""
    server = f"127.{part}.0.1"
    listener = socket.create_server((server, 8000 + part), backlog=1024)
    made = 0
    while made < count and time.monotonic() < until:
        for n in range(ADDRESSES):
            client = socket.socket()
            client.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            client.bind((f"127.{part}.1.{1 + n}", 0))
            client.connect((server, 8000 + part))
            accepted, _ = listener._accept()
            client.close()
            os.close(accepted)
            made += 1
    os.write(report, struct.pack("q", made))


class Load:
    """Two processes that connect."""

    def __init__(self, count=1 << 60, seconds=1 << 30):
        self.reader, writer = os.pipe()
        self.began = time.monotonic()
        self.children = []
        for part in (1, 2):
            child = os.fork()
            if child == 0:
                connect(part, count // 2, self.began + seconds, writer)
                os._exit(0)
            self.children.append(child)
        os.close(writer)

    def end(self):
        """Waits; returns how many connections a second there were."""
        for child in self.children:
            os.waitpid(child, 0)
        made = sum(struct.unpack("q", os.read(self.reader, 8))[0] for _ in self.children)
        os.close(self.reader)
        return made / (time.monotonic() - self.began)


class Screen:
    """`top` on a terminal of its own."""

    def __init__(self, binary, arguments=()):
        self.began = time.monotonic()
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
            os.environ["TERM"] = "xterm-256color"
            os.execv(binary, [binary, "top", *arguments])
        self.bytes = 0

    def read(self, timeout):
        if not select.select([self.terminal], [], [], timeout)[0]:
            return b""
        try:
            read = os.read(self.terminal, 1 << 16)
        except OSError:
            return b""
        self.bytes += len(read)
        return read

    def first_frame(self):
        """Seconds until the table's head and the line of hints are there."""
        seen = b""
        while not (b"TIME_WAIT" in seen and b"quit" in seen):
            seen += self.read(30)
            if time.monotonic() - self.began > 60:
                sys.exit("top shows nothing")
        return time.monotonic() - self.began

    def watch(self, seconds):
        """Frames and bytes that come meanwhile; what comes within 20 ms is one frame."""
        end = time.monotonic() + seconds
        before, frames, last = self.bytes, 0, 0.0
        while time.monotonic() < end:
            if self.read(0.1):
                now = time.monotonic()
                frames += now - last > 0.02
                last = now
        return frames, self.bytes - before

    def cpu(self):
        """Seconds of CPU so far, in user space and in the kernel."""
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return int(fields[11]) / TICKS_PER_S, int(fields[12]) / TICKS_PER_S

    def memory_bytes(self, name="VmHWM"):
        with open(f"/proc/{self.pid}/status") as file:
            line = next(line for line in file if line.startswith(name))
        return int(line.split()[1]) * 1024

    def end(self):
        """Quits; returns what `top` says when it ends."""
        os.write(self.terminal, b"q")
        tail = b""
        while read := self.read(5):
            tail = (tail + read)[-400:]
        os.waitpid(self.pid, 0)
        os.close(self.terminal)
        lines = tail.decode(errors="replace").splitlines()
        return next((line[line.index("tcptrace: ") :] for line in lines if "tcptrace: " in line), "no last line")


def run(binary, *arguments):
    """Seconds, MiB at most, and what it wrote."""
    began = time.monotonic()
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    return time.monotonic() - began, usage.ru_maxrss / 1024, out.decode()


def sockets_now():
    with open("/proc/net/sockstat") as file:
        line = next(line for line in file if line.startswith("TCP:"))
    return int(line.split()[6])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default="target/release/tcptrace")
    parser.add_argument("--sockets", type=int, default=120_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    subprocess.check_call(["ip", "link", "set", "lo", "up"])
    set_sysctl("tcp_max_tw_buckets", options.sockets)
    set_sysctl("ip_local_port_range", "1024 65000")
    netns = os.stat("/proc/self/ns/net").st_ino
    only = ["--netns", str(netns)]
    print(f"load before: {os.getloadavg()[0]:.1f}")

    rate = Load(count=options.sockets).end()
    print(f"without tracing: {rate:,.0f} connections/s; TIME_WAIT {sockets_now():,}")

    for view in ("states", "ports"):
        seconds, most, out = run(options.binary, view)
        line = next((line for line in out.splitlines() if "TIME_WAIT" in line or "127." in line), "")
        print(f"{view}: {seconds:.2f} s, {most:.0f} MiB at most: {line.strip()[:60]}")
    firsts = []
    for _ in range(ROUNDS):
        load = Load(seconds=BUSY_SECONDS) if options.busy else None
        screen = Screen(options.binary, only)
        firsts.append(screen.first_frame())
        if load:
            screen.watch(1)
            print(f"begun under load: {screen.memory_bytes() >> 20} MiB at most; {screen.end()}")
            print(f"meanwhile: {load.end():,.0f} connections/s; TIME_WAIT {sockets_now():,}")
        else:
            screen.end()
    shown = ", ".join(f"{first * 1000:.0f}" for first in sorted(firsts))
    print(f"first frame: median {statistics.median(firsts) * 1000:.0f} ms of {shown}; TIME_WAIT {sockets_now():,}")

    screen = Screen(options.binary, only)
    screen.first_frame()
    print(f"after the first frame: {screen.memory_bytes('VmRSS') >> 20} MiB; TIME_WAIT {sockets_now():,}")
    load = Load(seconds=options.seconds + 4)
    screen.watch(3)
    user, system = screen.cpu()
    began = time.monotonic()
    frames, size = screen.watch(options.seconds)
    took = time.monotonic() - began
    user, system = (now - before for now, before in zip(screen.cpu(), (user, system)))
    print(f"top: {user / took:.0%} of a core in user space, {system / took:.0%} in the kernel")
    print(f"screen: {frames / took:.1f} frames/s, {size / max(frames, 1):,.0f} bytes each")
    print(f"memory at most: {screen.memory_bytes() >> 20} MiB; TIME_WAIT {sockets_now():,}")
    print(f"while tracing: {load.end():,.0f} connections/s")
    print(screen.end())


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    main()
