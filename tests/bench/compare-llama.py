#!/usr/bin/env python3
"""octavo against llama.cpp on this machine, interleaved in one run.

    compare-llama.py --octavo build/release/octavo --llama DIR MODEL.gguf [--json OUT]

DIR (or $LLAMA_BIN) holds llama-bench, llama-batched-bench and llama-server. What is measured, in tokens a second:

  prefill 512      a prompt of 512 token ids
      octavo, llama-server: 512 / (time from sending the request to the first streamed token)
      llama-bench:          its own pp512
  decode, batch 1  128 tokens after a prompt of 16
      octavo, llama-server: 127 / (time from the first streamed token to the last)
      llama-bench:          its own tg128
  decode, batch 16 sixteen streams at once, each with --context tokens of context (2,000)
      octavo, llama-server: tokens of all streams that arrive while all sixteen are decoding, by that time; the
                            prompts differ, and the streams are long enough that the window exists (see `window`)
      llama-batched-bench:  its own S_TG of -npp 2000 -ntg 64 -npl 16 with an f16 cache. With -pps the prompt is
                            computed once and its cache copied to each of the sixteen (as separate streams), which
                            saves sixteen prefills and leaves the decode speed as it is

Servers are measured through HTTP on the loopback as their users see them: sampling, detokenization and streaming
included. llama-bench and llama-batched-bench measure the library alone. Every side uses the same number of threads
and has the machine to itself: one round measures each of them once, one after the other, in an order that turns
with the round; servers start afresh for their turn and are warmed by one request. Reported: the median of the
rounds, the spread, and octavo's ratio to each peer.
"""
import argparse
import http.client
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PROMPT, GENERATE = 512, 128
BATCH, WINDOW = 16, 64


def random_prompt(seed, length):
    """Ordinary token ids: the same for every server, and none of them special in the models compared."""
    return [random.Random(f"{seed} {i}").randrange(300, 40000) for i in range(length)]


class Server:
    """A server process, ready to answer; `with` ends it."""

    def __init__(self, name, command, port, environment=None):
        self.name, self.port = name, port
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=environment)

    def __enter__(self):
        for _ in range(36000):  # a first start with o2 calibrates
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended before it was ready:\n{self.output()}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} was not ready within an hour:\n{self.output()}")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def stream(self, prompt, max_tokens):
        """Send one request; returns (time sent, arrival time of each token)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=7200)
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}, "cache_prompt": False}
        sent = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{self.name}: {response.status} {response.read(400)!r}")
        arrivals, finished, usage = [], None, None
        while line := response.readline():
            now = time.perf_counter()
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            if "error" in event:
                raise RuntimeError(f"{self.name}: {event['error']}")
            # A closing event carries no token; text may be empty while a character is incomplete.
            for choice in event.get("choices", []):
                finished = now
                if choice.get("finish_reason") is None or choice.get("text"):
                    arrivals.append(now)
        connection.close()
        if usage and usage.get("completion_tokens") != max_tokens:
            raise RuntimeError(f"{self.name}: asked for {max_tokens} tokens, got {usage}")
        return sent, arrivals or [finished]


def measure_single(server, seed):
    server.stream(random_prompt(f"warm {seed}", 64), 8)
    sent, arrivals = server.stream(random_prompt(seed, PROMPT), 1)
    prefill = PROMPT / (arrivals[0] - sent)
    _, arrivals = server.stream(random_prompt(seed, 16), GENERATE)
    return {"prefill": prefill, "decode": (GENERATE - 1) / (arrivals[-1] - arrivals[0])}


def measure_batch(server, seed, context, max_tokens):
    """Sixteen streams at once; the rate inside the window in which every one of them decodes."""
    server.stream(random_prompt(f"warm {seed}", 64), 8)
    results, errors = [None] * BATCH, []

    def run(index):
        try:
            results[index] = server.stream(random_prompt(f"{seed} {index}", context), max_tokens)[1]
        except (RuntimeError, OSError) as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(BATCH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    begin = max(arrivals[0] for arrivals in results)
    end = min(arrivals[-1] for arrivals in results)
    # Each stream's events stand for max_tokens tokens, evenly: a server may send several in one event.
    tokens = sum(sum(begin < t <= end for t in arrivals) * max_tokens / len(arrivals) for arrivals in results)
    if end <= begin or tokens < BATCH * WINDOW / 2:
        raise RuntimeError(f"{server.name}: the streams overlap in {tokens:.0f} tokens only; raise --batch-tokens")
    return {"decode16": tokens / (end - begin), "window": tokens / BATCH}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_tool(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


class Bench:
    def __init__(self, options):
        self.o = options
        self.threads = str(options.threads)

    def octavo(self, kv_format, parallel, context):
        port = free_port()
        command = [self.o.octavo, "serve", self.o.model, "--host", "127.0.0.1", "--port", str(port), "--threads", self.threads,
                   "--ctx-size", str(context), "--parallel", str(parallel), "--kv-format", kv_format,
                   "--kv-cache-gib", f"{self.o.kv_gib:g}", *self.o.octavo_arg]
        return Server(f"octavo {kv_format}", command, port)

    def llama_server(self, parallel, context):
        port = free_port()
        command = [f"{self.o.llama}/llama-server", "-m", self.o.model, "--host", "127.0.0.1", "--port", str(port), "-t", self.threads,
                   "-tb", self.threads, "-c", str(context * parallel), "-np", str(parallel), "--no-kv-unified", "--no-ui",
                   "--cache-ram", "0"]
        return Server("llama-server", command, port)

    def single_octavo(self, kv_format, seed):
        with self.octavo(kv_format, 1, 2048) as server:
            return measure_single(server, seed)

    def single_llama_server(self, seed):
        with self.llama_server(1, 2048) as server:
            return measure_single(server, seed)

    def single_llama_bench(self, _):
        command = [f"{self.o.llama}/llama-bench", "-m", self.o.model, "-p", str(PROMPT), "-n", str(GENERATE), "-t", self.threads,
                   "-r", "1", "-o", "json"]
        found = {}
        for test in json.loads(run_tool(command)):
            found["prefill" if test["n_prompt"] else "decode"] = test["avg_ts"]
        return found

    def batch_octavo(self, kv_format, seed):
        with self.octavo(kv_format, BATCH, self.o.context + self.o.batch_tokens + 64) as server:
            return measure_batch(server, seed, self.o.context, self.o.batch_tokens)

    def batch_llama_server(self, seed):
        with self.llama_server(BATCH, self.o.context + self.o.batch_tokens + 64) as server:
            return measure_batch(server, seed, self.o.context, self.o.batch_tokens)

    def batch_llama_bench(self, _):
        command = [f"{self.o.llama}/llama-batched-bench", "-m", self.o.model, "-c", str(BATCH * (self.o.context + WINDOW) + 256),
                   "-b", "2048", "-ub", "512", "-npp", str(self.o.context), "-ntg", str(WINDOW), "-npl", str(BATCH), "-t", self.threads,
                   "-tb", self.threads, "--no-kv-unified", "--output-format", "jsonl"]
        if not self.o.full_prompts:
            command.append("-pps")
        rows = [json.loads(line) for line in run_tool(command).splitlines() if line.startswith("{")]
        return {"decode16": rows[-1]["speed_tg"], "window": float(WINDOW)}

    def turns(self, batched):
        single = []
        for kv_format in self.o.formats:
            one = self.batch_octavo if batched else self.single_octavo
            single.append((f"octavo {kv_format}", lambda seed, f=kv_format, m=one: m(f, seed)))
        if "bench" in self.o.peers:
            single.append(("llama-batched-bench" if batched else "llama-bench",
                           self.batch_llama_bench if batched else self.single_llama_bench))
        if "server" in self.o.peers:
            single.append(("llama-server", self.batch_llama_server if batched else self.single_llama_server))
        return single


def collect(turns, rounds, samples):
    for index in range(rounds):
        shift = index % len(turns)
        for name, measure in turns[shift:] + turns[:shift]:
            start = time.perf_counter()
            for key, value in measure(f"round {index}").items():
                samples.setdefault(key, {}).setdefault(name, []).append(value)
            print(f"round {index + 1}/{rounds}: {name}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


TITLES = {"prefill": f"prefill {PROMPT}", "decode": "decode, batch 1",
          "decode16": f"decode, batch {BATCH}"}


def table(samples):
    lines = ["| what | side | median tokens/s | lowest .. highest | octavo's ratio to it |", "|---|---|---|---|---|"]
    for key, title in TITLES.items():
        sides = samples.get(key, {})
        ours = {name: statistics.median(values) for name, values in sides.items() if name.startswith("octavo")}
        for name, values in sides.items():
            median = statistics.median(values)
            ratios = "" if name in ours else ", ".join(f"{n.split()[1]}: {v / median:.2f}" for n, v in ours.items())
            lines.append(f"| {title} | {name} | {median:.1f} | {min(values):.1f} .. {max(values):.1f} | {ratios} |")
    return "\n".join(lines)


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        return next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--octavo", default="build/release/octavo")
    parser.add_argument("--llama", default=os.environ.get("LLAMA_BIN"), help="folder of llama.cpp's binaries; default $LLAMA_BIN")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="of prefill and batch 1; 0: none")
    parser.add_argument("--batch-rounds", type=int, default=3, help="of batch 16; 0: none")
    parser.add_argument("--batch-tokens", type=int, default=224,
                        help="tokens of each stream at batch 16: the last to start needs the others still running")
    parser.add_argument("--context", type=int, default=2000, help="tokens of context of each of batch 16")
    parser.add_argument("--full-prompts", action="store_true", help="llama-batched-bench without -pps")
    parser.add_argument("--formats", nargs="*", default=["o2", "f16"])
    parser.add_argument("--peers", nargs="+", default=["bench", "server"], choices=["bench", "server", "none"])
    parser.add_argument("--kv-gib", type=float, default=3)
    parser.add_argument("--octavo-arg", action="append", default=[], help="one more argument of octavo serve; repeatable")
    parser.add_argument("--json", help="write every sample here")
    options = parser.parse_args()
    if not options.llama and options.peers != ["none"]:
        parser.error("--llama DIR (or LLAMA_BIN) must name the folder of llama.cpp's binaries")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end with us
    bench, samples = Bench(options), {}
    try:
        collect(bench.turns(False), options.rounds, samples)
        collect(bench.turns(True), options.batch_rounds, samples)
    finally:
        windows = samples.pop("window", {})
        print(f"{os.path.basename(options.model)}, {options.threads} threads, {processor()}, "
              f"{options.rounds} and {options.batch_rounds} rounds\n")
        print(table(samples))
        if windows:
            print("\ntokens of each stream inside the measured window at batch 16: "
                  + ", ".join(f"{name} {statistics.median(values):.0f}" for name, values in windows.items()))
        if options.json:
            with open(options.json, "w", encoding="utf-8") as out:
                json.dump({"command": sys.argv, "processor": processor(), "samples": samples, "windows": windows}, out, indent=1)


if __name__ == "__main__":
    main()
