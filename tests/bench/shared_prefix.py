#!/usr/bin/env python3
"""What many clients with one system prompt cost: shared_prefix.py [MODEL.gguf | --shape SHAPE]

A server that it starts gets --rounds prompts one after the other that begin in nothing alike (misses), then as many that
begin with one and the same long system prompt (hits), and at last --clients of these at once. What must come out, and else
the exit status is 1:

  time      the median time to the first token of a hit is at most a tenth of that of a miss
  memory    while all clients run, the system prompt's blocks are held once: the pool grows by one prompt and what each
            client adds of its own, not by a prompt each

Memory is looked at as soon as all that run have their first token. Where the replies were over before that, all is done
again with replies four times as long, up to the model's context. Prompts are token ids, so any model does. After "--":
more options of octavo serve.
"""
import json
import random
import statistics
import sys
import threading
import time
import urllib.request

from octavo_server import Server, arguments_parse

MAX_RATIO, BLOCK_TOKENS, SPARE_TOKENS = 0.1, 64, 64


def ask(server, prompt, max_tokens, began=lambda: None):
    """(seconds to the first token, tokens found in the cache); calls began when that token is there"""
    body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}}
    request = urllib.request.Request(server.url + "/v1/completions", json.dumps(body).encode())
    start, first, cached = time.monotonic(), None, None
    with urllib.request.urlopen(request, timeout=3600) as reply:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            if first is None:
                first = time.monotonic() - start
                began()
            usage = json.loads(line[6:]).get("usage")
            if usage:
                cached = usage["prompt_tokens_details"]["cached_tokens"]
    return first, cached


def look(server):
    """(sequences that run, bytes of blocks that sequences hold, each block once: neither free nor idle in the prefix cache)"""
    metrics = server.metrics()
    free = metrics['octavo_kv_pool_bytes{kind="free",format="any"}']
    return int(metrics["octavo_sequences_running"]), metrics["octavo_kv_pool_budget_bytes"] - free


def clients(server, prompts, max_tokens):
    """All at once -> their times, and the bytes in use when the most of them ran, each with its prompt read; 0 and 0 when
    no look at /metrics fell into such a moment."""
    results, generating, most_running, bytes_then = [None] * len(prompts), set(), 0, 0

    def one(i):
        try:
            results[i] = ask(server, prompts[i], max_tokens, lambda: generating.add(i))
        finally:
            generating.discard(i)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        n_generating = len(generating)
        if n_generating <= most_running:
            time.sleep(0.001)
            continue
        running, used = look(server)
        if most_running < running <= n_generating:
            most_running, bytes_then = running, used
    return results, bytes_then, most_running


def measure(options, what, of_server, max_tokens):
    """(report, or None when the replies were over too soon; the longest replies that the model has room for)"""
    draw = random.Random(1)

    def tokens(n):
        return [draw.randrange(1, 256) for _ in range(n)]

    system, n_prompt = tokens(options.system_tokens), options.system_tokens + options.own_tokens

    def prompt():
        return system + tokens(options.own_tokens)

    with Server(options.octavo, *what, "--ctx-size", n_prompt + max_tokens + SPARE_TOKENS, "--parallel", options.clients,
                "--kv-cache-bytes", options.kv_cache_bytes, *of_server) as server:
        longest = server.get("/v1/models")["data"][0]["meta"]["n_ctx_train"] - n_prompt - SPARE_TOKENS
        misses = [ask(server, tokens(n_prompt), 1) for _ in range(options.rounds)]
        ask(server, prompt(), 1)
        hits = [ask(server, prompt(), 1) for _ in range(options.rounds)]
        _, alone, _ = clients(server, [prompt()], max_tokens)
        results, together, running = clients(server, [prompt() for _ in range(options.clients)], max_tokens)
    if alone == 0 or running < 2:
        return None, longest
    miss, hit = (statistics.median(first for first, _ in rounds) for rounds in (misses, hits))
    return {"max_tokens": max_tokens, "miss_s": miss, "hit_s": hit, "ratio": hit / miss, "cached_tokens": hits[-1][1],
            "one_sequence_bytes": alone, "all_bytes": together, "running": running,
            # Of a client's own: what is not a whole block of the system prompt, and its output so far.
            "each_more_bytes": (together - alone) / (running - 1),
            "first_token_s_all": sorted(first for first, _ in results),
            "cached_tokens_all": min(cached for _, cached in results)}, longest


def add_arguments(parser):
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--system-tokens", type=int, default=3000)
    parser.add_argument("--own-tokens", type=int, default=20, help="of each prompt behind the system prompt")
    parser.add_argument("--max-tokens", type=int, default=256, help="of each reply; memory is looked at while they come")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kv-cache-bytes", default="1Gi")


def main():
    options, what, of_server = arguments_parse(__doc__, add_arguments)
    max_tokens = options.max_tokens
    while True:
        report, longest = measure(options, what, of_server, max_tokens)
        if report:
            break
        if max_tokens >= longest:
            sys.exit("the replies were over before /metrics showed them, and the model has no room for longer ones")
        max_tokens = min(4 * max_tokens, longest)
        print(f"the replies were over before /metrics showed them; again with {max_tokens} tokens each")
    miss, hit, alone, running, own = (
        report[name] for name in ("miss_s", "hit_s", "one_sequence_bytes", "running", "each_more_bytes"))
    print(f"time to the first token: miss {miss * 1e3:.1f} ms, hit {hit * 1e3:.1f} ms, ratio {hit / miss:.3f}; "
          f"{report['cached_tokens']} of {options.system_tokens + options.own_tokens} tokens from the cache")
    print(f"memory in use: one sequence {alone / 1e6:.2f} MB, {running} at once {report['all_bytes'] / 1e6:.2f} MB: each more takes "
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
