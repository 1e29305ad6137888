#!/usr/bin/env python3
"""200 clients of mixed length, a quarter of which leave at random: torture.py [CLIENTS] [SEED]

Afterwards no sequence runs or waits, no block is used, every reply that was waited for is whole and right, and the
server ends with status 0. OCTAVO_BIN chooses the build (asan, tsan)."""
import asyncio
import json
import random
import sys
import time

from conftest import NAME, PATIENCE_S, Server, wait_until

CTX = 1024


async def ask(server, body, leave_after_s):
    """The reply's text; None when the client left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                 % len(data) + data)
    try:
        reply = await asyncio.wait_for(reader.read(-1), leave_after_s)
    except asyncio.TimeoutError:
        if random.random() < 0.5:
            writer.transport.abort()  # RST instead of FIN
        return None
    finally:
        writer.close()
    head, _, rest = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, rest


def text_of(body, head, rest):
    if b"chunked" in head.lower():
        joined = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            joined, rest = joined + rest[:int(size, 16)], rest[int(size, 16) + 2:]
        rest = joined
    if not body["stream"]:
        return [c["text"] for c in json.loads(rest)["choices"]]
    assert rest.endswith(b"data: [DONE]\n\n"), rest[-300:]
    texts = [""] * body["n"]
    for event in rest.split(b"\n\n"):
        if event.startswith(b"data: {"):
            for choice in json.loads(event[6:])["choices"]:
                texts[choice["index"]] += choice["text"]
    return texts


async def client(server, i, rng, results):
    n_prompt = rng.choice([3, 20, 64, 65, 200, 500])
    body = dict(model=NAME, prompt=[rng.randrange(results["n_vocab"]) for _ in range(n_prompt)], n=rng.choice([1, 1, 1, 2, 3]),
                max_tokens=rng.choice([1, 5, 30, 80]), seed=i, stream=rng.random() < 0.6, ignore_eos=True,
                logprobs=rng.choice([None, None, 0, 5]), stop=rng.choice([None, ["e"], ["the end", "\n\n"]]))
    leaves = rng.random() < 0.25
    patience = rng.uniform(0, rng.choice([.02, .2, 4])) if leaves else PATIENCE_S * 10
    if leaves:  # while there is something to leave, on a fast machine too
        body.update(max_tokens=500, n=3, stop=None)
    await asyncio.sleep(rng.uniform(0, 2))
    while True:
        got = await ask(server, body, patience)
        if got is None:
            results["left"] += 1
            return
        status, head, rest = got
        if status == 429:
            results["busy"] += 1
            await asyncio.sleep(rng.uniform(0.1, 1))
            continue
        assert status == 200, (status, rest[:500])
        results["answered"] += 1
        results["texts"].append((body, text_of(body, head, rest)))
        return


def main(clients=200, seed=1):
    rng = random.Random(seed)
    random.seed(seed)
    server = Server("--ctx-size", CTX, "--kv-cache-bytes", 96 << 20, "--parallel", 16, "--max-queue", 100,
                    "--max-connections", 512)
    results = dict(left=0, busy=0, answered=0, texts=[], n_vocab=server.vocab_size())

    async def run():
        await asyncio.gather(*(client(server, i, random.Random(rng.random()), results) for i in range(clients)))
    start = time.monotonic()
    asyncio.run(run())
    print(f"{clients} clients in {time.monotonic() - start:.1f} s: {results['answered']} answered, "
          f"{results['left']} left, {results['busy']} times told to wait")
    wait_until(server.is_idle, "all sequences and blocks are gone")
    m = server.metrics()
    print({k: v for k, v in m.items() if k.startswith(("octavo_requests_total", "octavo_sequences", "octavo_http"))})
    assert results["answered"] + results["left"] == clients
    assert m['octavo_requests_total{outcome="error"}'] == 0
    # A few of them again, alone: the same texts, whatever ran beside them.
    for body, texts in rng.sample(results["texts"], min(8, len(results["texts"]))):
        again = server.complete(**{k: v for k, v in body.items() if k != "stream"})
        assert [c["text"] for c in again["choices"]] == texts
    wait_until(server.is_idle, "idle again")
    server.stop()
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
