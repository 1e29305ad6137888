#!/usr/bin/env python3
"""What many clients with one system prompt cost: shared_prefix.py [MODEL.gguf | --shape SHAPE]

A server that it starts gets --rounds prompts one after the other that begin in nothing alike (misses), then as many that
begin with one and the same long system prompt (hits), and at last --clients of these at once. What must come out, and else
the exit status is 1:

  time      the median time to the first token of a hit is at most a tenth of that of a miss
  memory    while all clients run, the system prompt's blocks are held once: the pool grows by one prompt and what each
            client adds of its own, not by a prompt each

Prompts are token ids, so any model does. After "--": more options of octavo serve.
"""
import json
import random
import statistics
import sys
import threading
import time
import urllib.request

from octavo_server import Server, arguments_parse

MAX_RATIO, BLOCK_TOKENS = 0.1, 64


def ask(server, prompt, max_tokens):
    """(seconds to the first token, tokens found in the cache)"""
    body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}}
    request = urllib.request.Request(server.url + "/v1/completions", json.dumps(body).encode())
    start, first, cached = time.monotonic(), None, None
    with urllib.request.urlopen(request, timeout=3600) as reply:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            first = first or time.monotonic() - start
            usage = json.loads(line[6:]).get("usage")
            if usage:
                cached = usage["prompt_tokens_details"]["cached_tokens"]
    return first, cached


def in_use(server):
    """Bytes of blocks that sequences hold, each block once: neither free nor idle in the prefix cache."""
    metrics = server.metrics()
    free = metrics['octavo_kv_pool_bytes{kind="free",format="any"}']
    return metrics["octavo_kv_pool_budget_bytes"] - free


def clients(server, prompts, max_tokens):
    """All at once -> their times, and the most bytes in use while all of them ran."""
    results, most, most_running = [None] * len(prompts), 0, 0

    def one(i):
        results[i] = ask(server, prompts[i], max_tokens)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        running = server.metrics()["octavo_sequences_running"]
        used = in_use(server)
        if running >= most_running:
            most, most_running = max(most if running == most_running else 0, used), running
        time.sleep(0.05)
    return results, most, int(most_running)


def add_arguments(parser):
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--system-tokens", type=int, default=3000)
    parser.add_argument("--own-tokens", type=int, default=20, help="of each prompt behind the system prompt")
    parser.add_argument("--max-tokens", type=int, default=256, help="of each reply; memory is looked at while they come")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kv-cache-bytes", default="1Gi")


def main():
    options, what, of_server = arguments_parse(__doc__, add_arguments)
    draw = random.Random(1)

    def tokens(n):
        return [draw.randrange(1, 256) for _ in range(n)]

    system = tokens(options.system_tokens)
    length = options.system_tokens + options.own_tokens + options.max_tokens
    with Server(options.octavo, *what, "--ctx-size", length + 64, "--parallel", options.clients, "--kv-cache-bytes",
                options.kv_cache_bytes, *of_server) as server:
        misses = [ask(server, tokens(options.system_tokens + options.own_tokens), 1) for _ in range(options.rounds)]
        ask(server, system + tokens(options.own_tokens), 1)
        hits = [ask(server, system + tokens(options.own_tokens), 1) for _ in range(options.rounds)]
        _, alone, _ = clients(server, [system + tokens(options.own_tokens)], options.max_tokens)
        results, together, running = clients(
            server, [system + tokens(options.own_tokens) for _ in range(options.clients)], options.max_tokens)
    miss, hit = (statistics.median(first for first, _ in rounds) for rounds in (misses, hits))
    if alone == 0 or running < 2:
        sys.exit("the replies were over before /metrics showed them: raise --max-tokens")
    # Of a client's own: what is not a whole block of the system prompt, and its output.
    own = (together - alone) / max(1, running - 1)
    report = {"miss_s": miss, "hit_s": hit, "ratio": hit / miss, "cached_tokens": hits[-1][1],
              "one_sequence_bytes": alone, "all_bytes": together, "running": running, "each_more_bytes": own,
              "first_token_s_all": sorted(first for first, _ in results),
              "cached_tokens_all": min(cached for _, cached in results)}
    print(f"time to the first token: miss {miss * 1e3:.1f} ms, hit {hit * 1e3:.1f} ms, ratio {hit / miss:.3f}; "
          f"{report['cached_tokens']} of {options.system_tokens + options.own_tokens} tokens from the cache")
    print(f"memory in use: one sequence {alone / 1e6:.2f} MB, {running} at once {together / 1e6:.2f} MB: each more takes "
          f"{own / 1e6:.3f} MB; without sharing it would be {alone * running / 1e6:.1f} MB")
    print(f"{options.clients} at once: first token after {statistics.median(report['first_token_s_all']) * 1e3:.0f} ms in the "
          f"median, at least {report['cached_tokens_all']} tokens of each from the cache")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"options": vars(options), **report}, file, indent=1)
    whole = options.system_tokens // BLOCK_TOKENS * BLOCK_TOKENS
    good = {"a hit takes at most a tenth of a miss": hit / miss <= MAX_RATIO,
            "every client finds the system prompt's whole blocks": report["cached_tokens_all"] >= whole,
            "one more client takes less than a quarter of a whole sequence": own < alone / 4}
    for text, is_good in good.items():
        print("good:  " if is_good else "FAILED:", text)
    sys.exit(not all(good.values()))


if __name__ == "__main__":
    main()
