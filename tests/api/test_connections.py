"""Connections: clients that leave, stall, send nonsense; the server's own end."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest
import requests

from conftest import BINARY, MODEL, NAME, PATIENCE_S, SANITIZED, free_port, wait_until

LONG = dict(model=NAME, prompt="Tell me everything:", max_tokens=3900 if SANITIZED else 2000, ignore_eos=True, temperature=0)
SMALL = ("--ctx-size", 4096, "--kv-cache-bytes", 256 << 20, "--parallel", 2)


def raw(server, data=b"", timeout=PATIENCE_S):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=timeout)
    connection.sendall(data)
    return connection


def request_bytes(body, headers=""):
    data = json.dumps(body).encode()
    return (f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(data)}\r\n\r\n").encode() + data


def read_all(connection):
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def read_head(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1)
        assert part, f"closed after {data!r}"
        data += part
    return data.decode()


def read_stream(connection):
    """A chunked body to its end; the connection stays."""
    file = connection.makefile("rb", buffering=0)
    body = b""
    while size := int(file.readline(), 16):
        left = size
        while left:
            part = file.read(left)
            body += part
            left -= len(part)
        file.readline()
    file.readline()
    return body


@pytest.mark.parametrize("how", ["stream", "whole", "prefill", "queue", "half"])
def test_client_leaves(start, how):
    """In decode (streamed or not), in the prefill of a long prompt, in the queue; by closing or by shutdown."""
    server = start(*SMALL)
    holders = []
    if how == "queue":
        holders = [raw(server, request_bytes(LONG)) for _ in range(2)]
        wait_until(lambda: server.metrics()["octavo_sequences_running"] == 2, "both run")
    body = dict(LONG, stream=how in ("stream", "half"))
    if how == "prefill":
        body.update(prompt=[100 + i % 151 for i in range(1000)], max_tokens=1000)
    connection = raw(server, request_bytes(body))
    if body["stream"]:
        begun = b""
        while b"data:" not in begun:
            part = connection.recv(4096)
            assert part, begun
            begun += part
    gauge = "octavo_sequences_waiting" if how == "queue" else "octavo_sequences_running"
    wait_until(lambda: server.metrics()[gauge] == 1, "it is there")
    if how != "queue" and how != "prefill":
        wait_until(lambda: server.blocks_in_use() > 0, "it holds blocks")
    left_at = time.monotonic()
    connection.shutdown(socket.SHUT_WR) if how == "half" else connection.close()
    wait_until(lambda: server.metrics()[gauge] == 0, "it is gone")
    print(f"{how}: gone after {time.monotonic() - left_at:.2f} s")
    for holder in holders:
        holder.close()
    wait_until(server.is_idle, "no block is used")
    assert server.outcomes()["cancelled"] == 1 + len(holders)
    assert server.complete("Hello", max_tokens=2)
    server.stop()


def test_keep_alive_and_pipelining(server):
    body = dict(model=NAME, prompt="Hello", max_tokens=3, temperature=0, stream=True)
    connection = raw(server)
    streams = []
    for _ in range(3):
        connection.sendall(request_bytes(body))
        assert read_head(connection).startswith("HTTP/1.1 200")
        streams.append(read_stream(connection))
    connection.sendall(request_bytes(body) + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert read_head(connection).startswith("HTTP/1.1 200")
    streams.append(read_stream(connection))
    assert b'{"status":"ok"}' in read_all(connection)
    assert all(s.endswith(b"data: [DONE]\n\n") for s in streams)
    # How many tokens come in one event is a matter of timing; the text is not.
    texts = ["".join(json.loads(line[6:])["choices"][0]["text"] for line in s.split(b"\n\n") if line[6:7] == b"{")
             for s in streams]
    assert texts.count(texts[0]) == 4


def test_http_1_0(server):
    body = json.dumps(dict(prompt="Hello", max_tokens=3, stream=True)).encode()
    data = read_all(raw(server, b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    head, _, text = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.") and b"200" in head.split(b"\r\n")[0] and b"chunked" not in head.lower()
    assert text.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("data", [
    b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 20000 + b"\r\n",
    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 1000, b"\r\n" * 1000,
], ids=lambda d: repr(d[:40]))
def test_malformed_http(server, data):
    connection = raw(server, timeout=2)
    try:
        connection.sendall(data)
        reply = read_all(connection)
    except OSError:
        reply = b""  # no more than a beginning, or the reset overtook the reply
    connection.close()
    assert reply == b"" or int(reply.split()[1]) in range(400, 600), reply[:200]
    assert not reply.startswith(b"HTTP/1.1 500")
    assert requests.get(server.url + "/health", timeout=60).status_code == 200


def test_slow_header(start):
    """A client that sends its header byte by byte is cut off; others are served meanwhile."""
    server = start("--ctx-size", 256, "--header-timeout-ms", 1000)
    slow = raw(server, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    data = None
    for _ in range(PATIENCE_S * 5):
        try:
            slow.sendall(b"a")
            slow.settimeout(0.2)
            data = slow.recv(4096)
            break
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            data = b""
            break
        finally:
            assert requests.get(server.url + "/health", timeout=60).status_code == 200
    assert data is not None, "never cut off"
    assert data == b"" or b"408" in data.split(b"\r\n")[0]
    server.stop()


@pytest.mark.skipif(SANITIZED, reason="long; tests/unit/test_http.c covers it under sanitizers")
def test_slow_reader(start):
    """A client that does not read its stream is cut off; what it held is free."""
    server = start("--ctx-size", 2048, "--kv-cache-bytes", 512 << 20, "--parallel", 16, "--idle-timeout-ms", 3600000)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    # About 25 KB a step; the system's buffers take the first megabytes.
    connection.sendall(request_bytes(dict(LONG, n=16, max_tokens=900, temperature=1.0, logprobs=20, stream=True)))
    wait_until(lambda: server.metrics()["octavo_sequences_running"] > 0, "it runs")
    wait_until(server.is_idle, "it was cut off", 5 * PATIENCE_S)
    assert "reads too slowly" in server.log()
    assert server.outcomes()["cancelled"] == 1
    server.stop()


def test_drain(start):
    """SIGTERM: what runs finishes, new requests and /health get 503, then the end with status 0."""
    server = start(*SMALL)
    connection = raw(server, request_bytes(dict(LONG, max_tokens=500 if SANITIZED else 200, stream=True)))
    assert b"200" in connection.recv(12)
    probe = raw(server)  # connected before the end
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in server.log(), "it drains")
    try:
        probe.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        health = probe.recv(4096)
    except ConnectionError:
        health = b""
    if health:  # unless the end has come already
        assert b"503" in health.split(b"\r\n")[0]
    data = read_all(connection)
    assert b'"finish_reason":"length"' in data and b"data: [DONE]" in data
    assert server.process.wait(PATIENCE_S) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url + "/health", timeout=5)


def test_drain_refuses(start):
    server = start(*SMALL, "--drain-timeout-ms", 1000)
    held = raw(server, request_bytes(dict(LONG, stream=True)))
    assert b"200" in held.recv(12)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in server.log(), "it drains")
    try:
        reply = server.post(prompt="a", max_tokens=1)
        assert reply.status_code == 503 and reply.headers["Retry-After"]
        assert reply.json()["error"]["type"] == "server_error"
    except requests.ConnectionError:
        pass  # the drain timeout has passed already
    data = read_all(held)
    assert b"[DONE]" not in data and b'"error"' in data, "the drain timeout ended it"
    assert server.process.wait(PATIENCE_S) == 0


def test_second_signal(start):
    server = start(*SMALL, "--drain-timeout-ms", 3600000)
    held = [raw(server, request_bytes(dict(LONG, stream=stream))) for stream in (True, False, False)]
    wait_until(lambda: server.metrics()["octavo_sequences_running"] == 2, "two run")
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in server.log(), "it drains")
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(PATIENCE_S) == 0
    replies = [read_all(h) for h in held]
    assert b'"error"' in replies[0]
    assert all(b"503" in r.split(b"\r\n")[0] for r in replies[1:])


def test_signal_while_idle(start):
    server = start("--ctx-size", 256)
    idle = raw(server)
    server.stop()
    assert idle.recv(1) == b""


def test_port_taken(start):
    first = start("--ctx-size", 256)
    done = subprocess.run([BINARY, "serve", MODEL, "--host", "127.0.0.1", "--port", str(first.port)],
                          capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert str(first.port) in done.stderr and "in use" in done.stderr
    assert "weights" not in done.stderr, "it fails before the long load"
    first.stop()


def run_to_failure(*arguments):
    return subprocess.run([BINARY, "serve", *map(str, arguments), "--host", "127.0.0.1", "--port", str(free_port())],
                          capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("damage", ["missing", "empty", "not gguf", "truncated", "truncated header"])
def test_bad_model(tmp_path, damage):
    path = tmp_path / "bad.gguf"
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "not gguf":
        path.write_bytes(b"hello" * 1000)
    elif damage.startswith("truncated"):
        with open(MODEL, "rb") as f:
            path.write_bytes(f.read(os.path.getsize(MODEL) * 2 // 3 if damage == "truncated" else 100000))
    done = run_to_failure(path)
    assert done.returncode == 1, done.stderr
    assert "bad.gguf" in done.stderr or "tensor '" in done.stderr or "key '" in done.stderr
    if damage == "truncated":
        assert "tensor '" in done.stderr


def test_bad_options():
    for options in (["--kv-format", "o9"], ["--sink-tokens", 1000], ["--no-such-option", 1], ["--port", "x"]):
        done = run_to_failure(MODEL, "--ctx-size", 256, *options)
        assert done.returncode == 2, (options, done.stderr)
        assert options[0].lstrip("-") in done.stderr


def resident_bytes(server, kinds=("RssAnon",)):
    with open(f"/proc/{server.process.pid}/status") as f:
        values = dict(line.split(":", 1) for line in f)
    return sum(int(values[k].split()[0]) * 1024 for k in kinds)


@pytest.mark.parametrize("n", [127, 128, 129, 130])
def test_ready_at_once(start, n):
    """First requests that a thread finds at once, about as many as the HTTP library takes events at a time (128): all are answered."""
    server = start("--ctx-size", 256, "--kv-cache-bytes", 64 << 20, "--http-threads", 1)
    time.sleep(0.2)  # the connection that asked whether it is ready is gone
    sessions = [raw(server) for _ in range(n)]
    time.sleep(0.5)  # for the thread to have taken them
    server.process.send_signal(signal.SIGSTOP)
    for session in sessions:
        session.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    server.process.send_signal(signal.SIGCONT)
    for session in sessions:
        assert b"200" in session.recv(4096).split(b"\r\n")[0]
    server.stop()


def test_idle_connections(start):
    """256 idle keep-alive connections, each of which has been served."""
    server = start("--ctx-size", 2048, "--kv-cache-bytes", 64 << 20)
    server.complete("Hello", max_tokens=4)
    before = resident_bytes(server)
    sessions = [raw(server) for _ in range(256)]
    for i, session in enumerate(sessions):
        session.sendall(request_bytes(dict(prompt="Hello", max_tokens=1)) if i % 8 == 0 else
                        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    for session in sessions:
        assert b"200" in session.recv(4096).split(b"\r\n")[0]
    assert server.metrics()["octavo_http_connections"] >= 256
    grown = resident_bytes(server) - before
    print(f"256 idle connections: {grown / 2 ** 20:.1f} MiB more; {before / 2 ** 20:.1f} MiB before")
    if not SANITIZED:
        assert grown < 60 << 20
    for session in sessions:
        session.close()
    wait_until(lambda: server.metrics()["octavo_http_connections"] <= 2, "they are gone")
    server.stop()
