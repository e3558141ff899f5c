#!/usr/bin/env python3
"""What the eBPF programs cost with and without a filter: loopback connections in, nanoseconds per run out.

    cargo build --release && sudo unshare --net python3 xtask/bench/filter.py

Every case sees the same load, and the cases take turns, ROUNDS times; the medians are printed as a table. The times
are the kernel's own (kernel.bpf_stats_enabled), which adds some 50 ns to each run. Needs root and bpftool.
"""

import json
import signal
import socket
import statistics
import subprocess
import sys

ROUNDS = 7
CONNECTIONS = 4_000
STATS = "/proc/sys/kernel/bpf_stats_enabled"
NETWORKS = ",".join(f"10.{n}.0.0/16" for n in range(16))
CASES = [
    ("no filter", []),
    ("1 term, all pass", ["--lport", "1-65535"]),
    ("16 terms, all pass", ["--filter", f"not peer {NETWORKS}"]),
    ("1 term, all dropped", ["--rport", "1"]),
    ("16 terms, all dropped", ["--peer", NETWORKS]),
]
PROGRAMS = ["set_state_first", "set_state_second", "timer_start", "timer_cancel", "timer_expire_entry"]


def programs():
    shown = json.loads(subprocess.check_output(["bpftool", "--json", "prog", "show"]))
    return {program["id"]: program for program in shown if program.get("name") in PROGRAMS}


def load():
    """Short connections, one after the other, closed by the client; from many addresses, as ports run out."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    for n in range(CONNECTIONS):
        client = socket.socket()
        client.bind((f"127.0.{1 + n % 200}.1", 0))
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        client.close()
        accepted.close()
    listener.close()


def measure(binary, arguments):
    others = set(programs())
    command = [binary, "events", *arguments]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while "tracing" not in tracer.stderr.readline():
        if tracer.poll() is not None:
            sys.exit("the tracer did not start")
    own = lambda: {p["name"]: p for id, p in programs().items() if id not in others}
    before = own()
    load()
    after = own()
    tracer.send_signal(signal.SIGTERM)
    summary = tracer.communicate()[1].strip()
    spent = {}
    for name in PROGRAMS:
        runs = after[name].get("run_cnt", 0) - before[name].get("run_cnt", 0)
        ns = after[name].get("run_time_ns", 0) - before[name].get("run_time_ns", 0)
        spent[name] = ns / max(runs, 1)
    return spent, summary.splitlines()[-1]


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/tcptrace"
    subprocess.check_call(["ip", "link", "set", "lo", "up"])
    with open(STATS) as file:
        before = file.read()
    with open(STATS, "w") as file:
        file.write("1")
    try:
        seen = {name: [] for name, _ in CASES}
        for _ in range(ROUNDS):
            for name, arguments in CASES:
                spent, summary = measure(binary, arguments)
                seen[name].append(spent)
                print(f"{name}: {summary}", file=sys.stderr)
    finally:
        with open(STATS, "w") as file:
            file.write(before)
    shown = ["set_state_first", "set_state_second", "timer_start", "timer_cancel"]
    print("| ns per run |", " | ".join(f"`{program}`" for program in shown), "|")
    print("|---|" + "---:|" * len(shown))
    for name, _ in CASES:
        medians = [statistics.median(spent[program] for spent in seen[name]) for program in shown]
        print(f"| {name} |", " | ".join(f"{median:.0f}" for median in medians), "|")


main()
