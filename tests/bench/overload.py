#!/usr/bin/env python3
"""What a server does when it is asked for five times what it can: overload.py [MODEL.gguf | --shape SHAPE]

Three runs on a server that it starts: closed loop with as many clients as run at once, which is its rate; 80 % of that rate
for --seconds, arriving at random; 500 % of it for as long. What must come out, and else the exit status is 1:

  replies   every one is a completion, 429 or 503
  latency   p99 of what was admitted under the overload is at most 1.5 times that at 80 %, to the end and to the first token
  memory    what the server holds under the overload is at most 5 % above what it held before it

Latencies are of admitted requests. Under overload they all take (parallel + max-queue) / rate, so --parallel should be no
larger than throughput needs and --max-queue about as large (docs/scheduling.md). After "--": more options of octavo serve.
"""
import json
import sys

from octavo_server import Server, arguments_parse

MAX_RATIO, MAX_GROWTH, OVERLOAD, USUAL = 1.5, 1.05, 5.0, 0.8
MOST_CONNECTIONS = 512
LATENCIES = {"first_token_ms": "to the first token", "end_to_end_ms": "to the end"}


def measure(server, options):
    load = ("--prompt-tokens", options.prompt_tokens, "--max-tokens", options.max_tokens, "--timeout-s", 3600)
    closed = ("--concurrency", options.parallel)
    guess = server.load(*load, *closed, "--requests", 4 * options.parallel)["requests_per_s"]
    wanted = max(8 * options.parallel, round(guess * options.capacity_seconds))
    capacity = server.load(*load, *closed, "--requests", wanted, "--seed", 2)
    rate = capacity["requests_per_s"]

    def open_loop(times, seed):
        # At least some, however slow the server is; and no more connections than it and this process may have. Who waits for
        # one counts from when it was due.
        requests = max(2 * options.parallel, round(rate * times * options.seconds))
        return server.load(*load, "--rate", rate * times, "--requests", requests, "--concurrency", MOST_CONNECTIONS,
                           "--allow-busy", "--seed", seed)

    return {"capacity": capacity, "usual": open_loop(USUAL, 3), "overload": open_loop(OVERLOAD, 4)}


def judge(runs):
    usual, overload = runs["usual"], runs["overload"]
    verdicts = []

    def say(good, text):
        verdicts.append({"good": bool(good), "what": text})

    for name, run in (("80 %", usual), ("500 %", overload)):
        others = {status: n for status, n in run["statuses"].items() if status not in ("200", "429", "503")}
        say(run["failed"] == 0 and not others, f"replies at {name}: {run['statuses']}" +
            (f", {run['failed']} failed" if run["failed"] else ""))
    say(overload["requests"] >= 0.8 * runs["capacity"]["requests_per_s"] * overload["wall_s"],
        f"under overload {overload['requests'] / overload['wall_s']:.2f} requests/s are completed, alone "
        f"{runs['capacity']['requests_per_s']:.2f}")
    for name, title in LATENCIES.items():
        before, after = usual[name]["p99"], overload[name]["p99"]
        times = after / before if before else float("inf")
        say(times <= MAX_RATIO, f"p99 {title}: {after:.0f} ms, {times:.2f} times that at 80 %")
    held, most = overload["resident_bytes"]["before"], overload["resident_bytes"]["most"]
    say(most <= MAX_GROWTH * held, f"memory under overload: {held / 1e6:.1f} MB before, {most / 1e6:.1f} at most, "
        f"{overload['resident_bytes']['after'] / 1e6:.1f} after")
    return verdicts


def table(runs):
    print(f"{'':10} {'sent/s':>8} {'done/s':>8} {'done':>7} {'429':>7} {'503':>5} {'other':>5}"
          f" {'ttft p50':>9} {'p99 ms':>9} {'e2e p50':>9} {'p99 ms':>9} {'MB':>7}")
    for name, run in runs.items():
        statuses = run["statuses"]
        sent = sum(statuses.values())
        others = sent - sum(statuses.get(status, 0) for status in ("200", "429", "503"))
        print(f"{name:10} {sent / run['wall_s']:8.2f} {run['requests'] / run['wall_s']:8.2f} {statuses.get('200', 0):7}"
              f" {statuses.get('429', 0):7} {statuses.get('503', 0):5} {others:5}"
              f" {run['first_token_ms']['p50']:9.0f} {run['first_token_ms']['p99']:9.0f}"
              f" {run['end_to_end_ms']['p50']:9.0f} {run['end_to_end_ms']['p99']:9.0f}"
              f" {run['resident_bytes']['after'] / 1e6:7.1f}")


def add_arguments(parser):
    parser.add_argument("--seconds", type=float, default=180, help="of the runs at 80 and at 500 %%")
    parser.add_argument("--capacity-seconds", type=float, default=60)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--max-queue", type=int, default=4)
    parser.add_argument("--prompt-tokens", default="128")
    parser.add_argument("--max-tokens", default="64")
    parser.add_argument("--kv-cache-bytes", default="128Mi", help="small, so that it is full before the overload")


def main():
    options, what, of_server = arguments_parse(__doc__, add_arguments)
    with Server(options.octavo, *what, "--parallel", options.parallel, "--max-queue", options.max_queue,
                "--kv-cache-bytes", options.kv_cache_bytes, *of_server) as server:
        runs = measure(server, options)
    verdicts = judge(runs)
    table(runs)
    print()
    for verdict in verdicts:
        print("good:  " if verdict["good"] else "FAILED:", verdict["what"])
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"options": vars(options), "serve_options": of_server, **runs, "verdicts": verdicts}, file, indent=1)
    sys.exit(not all(verdict["good"] for verdict in verdicts))


if __name__ == "__main__":
    main()
