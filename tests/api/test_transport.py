"""HTTP's own rules, TLS, keys and tenants."""
import concurrent.futures
import json
import re
import socket
import ssl
import subprocess

import openai
import pytest
import requests

import conftest
from conftest import BINARY, MODEL, NAME, PATIENCE_S, wait_until
from test_connections import raw, read_all, read_head, read_stream, request_bytes

SMALL = ("--ctx-size", 512, "--kv-cache-bytes", 64 << 20)
KEYS = "# who\nalpha-key alice\nbeta-key  bob\ngamma-key alice\nplain-key\n"


# --- the protocol ---

def exchange(server, text):
    head, _, body = read_all(raw(server, text.encode())).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}, body


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/props", "/slots", "/v1/octavo/sequences",
                                  "/tokenizer_info", "/version", "/openapi.json"])
def test_head(server, path):
    """HEAD is GET without the body."""
    status, headers, body = exchange(server, f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert status == 200 and body == b"" and int(headers["content-length"]) > 10
    assert headers["server"].startswith("octavo/")


def test_wrong_method_and_path(server):
    for method, path, allow in (("GET", "/v1/completions", "POST, OPTIONS"), ("PUT", "/health", "GET, HEAD, OPTIONS"),
                                ("DELETE", "/v1/models/x", "GET, HEAD, OPTIONS")):
        reply = requests.request(method, server.url + path, timeout=PATIENCE_S)
        assert reply.status_code == 405 and reply.headers["Allow"] == allow
        assert reply.json()["error"]["code"] == "method_not_allowed"
    reply = requests.get(server.url + "/v1/nothing", timeout=PATIENCE_S)
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "unknown_url"


def test_every_path_tells_its_methods(server):
    """405 and Allow on each path of the API, for every method it does not take."""
    paths = requests.get(server.url + "/openapi.json", timeout=PATIENCE_S).json()["paths"]
    session = requests.Session()
    for path, taken in paths.items():
        allowed = [m for m in ("GET", "HEAD", "POST") if m.lower() in taken or (m == "HEAD" and "get" in taken)] + ["OPTIONS"]
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY"} - set(allowed):
            reply = session.request(method, server.url + path.replace("{model}", "x"), timeout=PATIENCE_S)
            assert reply.status_code == 405, (method, path, reply.text)
            assert reply.headers["Allow"] == ", ".join(allowed), path


POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"prompt":"a","max_tokens":1}'


@pytest.mark.parametrize("data", [
    POST + b"Content-Length: 29\r\nContent-Length: 5\r\n\r\n" + BODY,
    POST + b"Content-Length: 29, 5\r\n\r\n" + BODY, POST + b"Content-Length: 0x1d\r\n\r\n" + BODY,
    POST + b"Content-Length: +29\r\n\r\n" + BODY, POST + b"Content-Length: 29\0\r\n\r\n" + BODY,
    POST + b"X-A: a\0b\r\nContent-Length: 29\r\n\r\n" + BODY, POST + b"X\0A: b\r\nContent-Length: 29\r\n\r\n" + BODY,
    POST + b"Transfer-Encoding: chunked\r\n\r\n1d" + b"0" * 20 + b"\r\n" + BODY,
    POST + b"Transfer-Encoding: chunked\r\n\r\n-1d\r\n" + BODY + b"\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n\r\n" + BODY, POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + BODY,
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + BODY + b"\r\n0\r\n\r\n",
], ids=["two lengths", "list of lengths", "hex", "plus", "NUL in length", "NUL in value", "NUL in name", "chunk overflows", "chunk negative",
        "chunk without size", "chunk of all", "chunk too short"])
def test_what_a_body_is_must_be_clear(server, data):
    """Where a message could be read in two ways (RFC 9112, 6 and 11.2) the connection ends with it: nothing behind it is taken
    for a request."""
    connection = raw(server, data + b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", timeout=5)
    try:
        reply = read_all(connection)
    except OSError:
        reply = b""  # it waits for more of a body
    assert b'"version"' not in reply, reply
    assert not reply.startswith(b"HTTP/1.1 5"), reply
    connection.close()
    assert requests.get(server.url + "/health", timeout=PATIENCE_S).status_code == 200


def test_length_beside_chunks(server):
    """Chunks win over a length (RFC 9112, 6.3); what is read is one request, or none."""
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    reply = read_all(raw(server, POST + b"Connection: close\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks))
    assert reply.count(b"HTTP/1.1 ") == 1 and reply.split()[1] in (b"200", b"400")


def test_too_large_before_it_is_read(server):
    """A length above the limit is refused at once: the client has not sent a byte of it."""
    for length in (5 << 20, 1 << 40):
        connection = raw(server, POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % length)
        assert read_head(connection).startswith("HTTP/1.1 413")
    assert read_head(raw(server, POST + b"Content-Length: %d\r\n\r\n" % (1 << 40))).startswith("HTTP/1.1 413")


def test_slow_headers_of_many(start):
    """As many stalled connections as there may be keep nobody out for longer than a header may take."""
    server = start(*SMALL, "--header-timeout-ms", 1500, "--max-connections", 48)
    stalled = [raw(server, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ") for _ in range(48)]

    def get(path):
        """A machine that stands still for long enough has this one told off as slow, too."""
        try:
            reply = requests.get(server.url + path, timeout=PATIENCE_S)
            return reply.text if reply.status_code == 200 else ""
        except requests.RequestException:
            return ""

    wait_until(lambda: get("/health"), "another client is served")
    for connection in stalled:
        data = read_all(connection)
        assert data == b"" or b"408" in data.split(b"\r\n")[0], data
    wait_until(lambda: re.search(r"^octavo_http_connections [012]$", get("/metrics"), re.M), "they are gone")
    server.stop()


def test_header_too_large(server):
    """Our own refusal, in JSON, and the connection goes on."""
    session = requests.Session()
    reply = session.get(server.url + "/health", headers={"X-Long": "a" * 40000}, timeout=PATIENCE_S)
    assert reply.status_code == 431 and reply.json()["error"]["code"] == "headers_too_large"
    assert session.get(server.url + "/health", headers={"X-Long": "a" * 30000}, timeout=PATIENCE_S).status_code == 200
    assert requests.get(server.url + "/health", headers={"X-Long": "a" * 500000}, timeout=PATIENCE_S).status_code == 431


def test_request_id(server):
    reply = requests.get(server.url + "/health", headers={"X-Request-Id": "mine-42"}, timeout=PATIENCE_S)
    assert reply.headers["X-Request-Id"] == "mine-42"
    others = {requests.get(server.url + "/nothing", timeout=PATIENCE_S).headers["X-Request-Id"] for _ in range(3)}
    assert len(others) == 3 and all(i.startswith("req-") for i in others)


def test_expect_continue(server):
    body = json.dumps({"prompt": "Hello", "max_tokens": 1}).encode()
    connection = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
                     b"%d\r\n\r\n" % len(body))
    assert read_head(connection).startswith("HTTP/1.1 100")
    connection.sendall(body)
    assert read_head(connection).startswith("HTTP/1.1 200")
    connection = raw(server, b"POST /nothing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert read_head(connection).startswith("HTTP/1.1 404")


def test_pipelined_requests(server):
    """Three at once, of which the middle one takes long: the replies come in order."""
    plain = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    text = read_all(raw(server, plain + request_bytes({"prompt": "Hello", "max_tokens": 8}) + last)).decode()
    assert text.count("HTTP/1.1 200") == 3
    assert text.index('"version"') < text.index('"text_completion"') < text.index('{"status":"ok"}')


@pytest.mark.parametrize("version, headers, stays", [
    ("1.1", "", True), ("1.1", "Connection: close\r\n", False), ("1.0", "", False),
])
def test_keep_alive(server, version, headers, stays):
    connection = raw(server, f"GET /health HTTP/{version}\r\nHost: x\r\n{headers}\r\n".encode())
    head = read_head(connection)
    assert "200" in head.split("\r\n")[0]
    connection.recv(100)
    if stays:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_head(connection).startswith("HTTP/1.1 200")
    else:
        assert connection.recv(100) == b""


def test_slow_body(start):
    """A body that comes byte by byte is not waited for for ever."""
    server = start(*SMALL, "--header-timeout-ms", 500)
    slow = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{")
    data = read_all(slow)
    assert data == b"" or b"408" in data.split(b"\r\n")[0]
    assert server.complete("Hello", max_tokens=1)
    server.stop()


# --- CORS ---

def preflight(server, origin, headers="authorization,content-type"):
    return requests.options(server.url + "/v1/chat/completions", timeout=PATIENCE_S, headers={
        "Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers})


def test_cors_for_all(server):
    wanted = ",".join(["authorization", "content-type"] + [f"x-stainless-{n}" for n in (
        "arch", "helper-method", "lang", "os", "package-version", "retry-count", "runtime", "runtime-version", "timeout")])
    reply = preflight(server, "https://page.example", wanted)
    assert reply.status_code == 204 and reply.headers["Access-Control-Allow-Origin"] == "*"
    assert reply.headers["Access-Control-Allow-Headers"] == wanted and "POST" in reply.headers["Access-Control-Allow-Methods"]
    for path in ("/health", "/nothing"):
        reply = requests.get(server.url + path, headers={"Origin": "https://page.example"}, timeout=PATIENCE_S)
        assert reply.headers["Access-Control-Allow-Origin"] == "*" and "Vary" not in reply.headers


def test_cors_for_some(start):
    server = start(*SMALL, "--cors-origins", "https://a.example, https://b.example")
    for origin, allowed in (("https://b.example", True), ("https://c.example", False), ("null", False)):
        for reply in (preflight(server, origin), requests.get(server.url + "/health", headers={"Origin": origin}, timeout=60)):
            assert reply.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
            assert reply.headers["Vary"] == "Origin"
    server.stop()


# --- TLS ---

@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "other"):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                        "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"], check=True, capture_output=True)
    subprocess.run(["openssl", "pkcs8", "-topk8", "-passout", "pass:secret", "-in", folder / "server.key", "-out",
                    folder / "encrypted.key"], check=True, capture_output=True)
    (folder / "nonsense").write_text("hello\n")
    return folder


class SecureServer(conftest.Server):
    """conftest's, over HTTPS."""

    def __init__(self, folder, *options):
        self.folder = folder
        super().__init__(*SMALL, "--tls-cert", folder / "server.pem", "--tls-key", folder / "server.key", *options, wait=False)
        self.url = self.url.replace("http:", "https:")
        wait_until(self.answers, "the server is ready")

    def get(self, path, **more):
        return requests.get(self.url + path, verify=str(self.folder / "server.pem"), timeout=PATIENCE_S, **more)

    def answers(self):
        assert self.process.poll() is None, self.log()
        try:
            return self.get("/health").status_code == 200
        except requests.ConnectionError:
            return False

    def connect(self):
        context = ssl.create_default_context(cafile=self.folder / "server.pem")
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S),
                                   server_hostname="localhost")


@pytest.fixture(scope="module")
def secure(certificate):
    server = SecureServer(certificate, "--header-timeout-ms", 2000)
    yield server
    server.stop()


def test_tls_clients(secure):
    """The official client over HTTPS, whole and streamed; a client that does not know the certificate refuses."""
    context = ssl.create_default_context(cafile=secure.folder / "server.pem")
    client = openai.OpenAI(base_url=secure.url + "/v1", api_key="none", max_retries=0,
                           http_client=openai.DefaultHttpxClient(verify=context), timeout=PATIENCE_S)
    arguments = dict(model=NAME, prompt="Hello", max_tokens=12, temperature=0)
    whole = client.completions.create(**arguments).choices[0].text
    assert "".join(c.choices[0].text for c in client.completions.create(stream=True, **arguments) if c.choices) == whole
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(secure.url + "/health", timeout=PATIENCE_S)


def test_tls_connection(secure):
    """TLS 1.2 at least; a stream and a request after it on one connection."""
    connection = secure.connect()
    assert connection.version() in ("TLSv1.2", "TLSv1.3")
    connection.sendall(request_bytes(dict(prompt="Hello", max_tokens=4, stream=True)))
    assert read_head(connection).startswith("HTTP/1.1 200")
    assert read_stream(connection).endswith(b"data: [DONE]\n\n")
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_head(connection).startswith("HTTP/1.1 200")


@pytest.mark.parametrize("data", [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"", b"\x16\x03\x01\x02\x00\x01"],
                         ids=["plain", "silent", "half"])
def test_tls_strangers(secure, data):
    """Plain HTTP, silence, half a handshake: cut off, and the others are served."""
    assert not read_all(raw(secure, data)).startswith(b"HTTP/1.1 200")
    assert secure.get("/health").status_code == 200


def drip(connection, data=b"a"):
    """Sends without end, a byte at a time; returns what came back once the server has cut the connection."""
    connection.settimeout(0.1)
    back = b""
    for _ in range(PATIENCE_S * 10):
        try:
            connection.sendall(data)
            part = connection.recv(4096)
            if not part:
                return back
            back += part
        except (TimeoutError, ssl.SSLWantReadError):
            continue
        except OSError:
            return back
    raise AssertionError("never cut off")


@pytest.mark.parametrize("data", [b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"G",
                                  b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"],
                         ids=["header", "request line", "body"])
@pytest.mark.parametrize("stalls", [False, True], ids=["drips", "stalls"])
def test_tls_slow(secure, data, stalls):
    """Who sends slowly, or stops, behind a whole handshake is cut off (no 408: only the library's thread may write there)."""
    connection = secure.connect()
    connection.sendall(data)
    if stalls:
        try:
            assert read_all(connection) == b""
        except ssl.SSLEOFError:
            pass  # cut without TLS' own goodbye
    else:
        assert drip(connection) == b""
    assert secure.get("/health").status_code == 200


def test_tls_slow_handshake(secure):
    """A handshake that comes byte by byte has as long as a header, not as long as each byte."""
    hello = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"
    connection = raw(secure, hello)
    drip(connection)
    assert secure.get("/health").status_code == 200


def test_tls_many_slow(start, certificate):
    """As many stalled clients as the server has connections: it is theirs only for as long as a header may take."""
    server = SecureServer(certificate, "--header-timeout-ms", 1500, "--max-connections", 24)
    stalled = [raw(server, data) for data in [b"", b"\x16\x03\x01\x02\x00\x01"] * 20]
    wait_until(lambda: server.answers(), "the others are served")
    assert all(not read_all(connection) for connection in stalled[:24])
    server.stop()


def test_tls_client_leaves(secure):
    connection = secure.connect()
    connection.sendall(request_bytes(dict(prompt="Hello", max_tokens=450, ignore_eos=True, stream=True)))
    assert read_head(connection).startswith("HTTP/1.1 200")
    connection.close()
    wait_until(lambda: 'octavo_sequences_running 0\n' in secure.get("/metrics").text, "it is gone")


@pytest.mark.parametrize("cert, key, parts, status", [
    ("server.pem", None, ["--tls-key", "missing"], 2), (None, "server.key", ["--tls-cert", "missing"], 2),
    ("none.pem", "server.key", ["--tls-cert", "none.pem", "No such file"], 1),
    ("nonsense", "server.key", ["--tls-cert", "nonsense", "no certificate"], 1),
    ("server.pem", "nonsense", ["--tls-key", "nonsense", "no private key"], 1),
    ("server.pem", "encrypted.key", ["--tls-key", "encrypted.key", "password"], 1),
    ("server.pem", "other.key", ["--tls-key", "other.key", "not the key of"], 1),
])
def test_tls_bad_files(certificate, cert, key, parts, status):
    options = [*(["--tls-cert", certificate / cert] if cert else []), *(["--tls-key", certificate / key] if key else [])]
    done = subprocess.run([BINARY, "serve", MODEL, "--port", "0", *options], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == status, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr


# --- keys and tenants ---

@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(KEYS)
    server = conftest.Server(*SMALL, "--api-key-file", path, "--api-key", "one more key", wait=True)
    yield server
    server.stop()


@pytest.mark.parametrize("headers, status", [
    ({}, 401), ({"Authorization": "Bearer alpha-key"}, 200), ({"Authorization": "Bearer beta-key"}, 200),
    ({"X-Api-Key": "plain-key"}, 200), ({"Authorization": "Bearer one more key"}, 200), ({"Authorization": "Bearer alice"}, 401),
    ({"Authorization": "Bearer alpha-key alice"}, 401), ({"Authorization": "Bearer alpha-ke"}, 401),
    ({"Authorization": "Bearer #"}, 401), ({"X-Api-Key": "Alpha-key"}, 401),
], ids=str)
def test_keys(keyed, headers, status):
    reply = requests.get(keyed.url + "/v1/models", headers=headers, timeout=PATIENCE_S)
    assert reply.status_code == status
    if status == 401:
        assert reply.headers["WWW-Authenticate"] == "Bearer" and reply.json()["error"]["code"] == "invalid_api_key"
        assert "key" not in reply.text.replace("API key", "").replace("api_key", "").replace("KEY", "").replace("Api-Key", "")


@pytest.mark.parametrize("line", ["X-Api-Key: plain-key ", "X-Api-Key:plain-key\t \t", "X-Api-Key:   plain-key",
                                  "Authorization: Bearer plain-key ", "Authorization:\tBearer  plain-key\t"])
def test_space_around_key(keyed, line):
    """White space around a header's value is no part of it (RFC 9110, 5.5)."""
    assert exchange(keyed, f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{line}\r\nConnection: close\r\n\r\n")[0] == 200
    inside = line.replace("plain-key", "plain- key")
    assert exchange(keyed, f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{inside}\r\nConnection: close\r\n\r\n")[0] == 401


def test_space_behind_headers(server):
    """Of all headers, not only of keys."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine-7 \r\nX-Request-Timeout: 100 \t\r\n"
    body = json.dumps({"prompt": "Hello", "max_tokens": 1})
    status, headers, _ = exchange(server, f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}")
    assert status == 200 and headers["x-request-id"] == "mine-7"


def test_preflight_needs_no_key(keyed):
    assert preflight(keyed, "https://a.example").status_code == 204
    assert requests.get(keyed.url + "/health", timeout=PATIENCE_S).status_code == 200


def test_tenants(keyed):
    """Counted by name: alice has two keys, a key without a name is counted nowhere."""
    for key, n in (("alpha-key", 2), ("gamma-key", 3), ("beta-key", 1), ("plain-key", 1)):
        reply = requests.post(keyed.url + "/v1/completions", headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S,
                              json=dict(prompt=[1, 2, 3], max_tokens=4, n=n, ignore_eos=True))
        assert reply.status_code == 200, reply.text
    text = requests.get(keyed.url + "/metrics", headers={"X-Api-Key": "beta-key"}, timeout=PATIENCE_S).text
    for name, requests_, prompt, generated in (("alice", 2, 15, 20), ("bob", 1, 3, 4)):
        assert f'octavo_tenant_requests_total{{tenant="{name}"}} {requests_}\n' in text
        assert f'octavo_tenant_prompt_tokens_total{{tenant="{name}"}} {prompt}\n' in text
        assert f'octavo_tenant_generated_tokens_total{{tenant="{name}"}} {generated}\n' in text
    assert text.count("octavo_tenant_requests_total{") == 2 and "alpha-key" not in text


def test_one_key_does_not_fill_the_queue(tmp_path):
    """One runs. Of alice half the queue may wait, whichever of her keys she uses; what is more gets 429 with her limit and a
    time, while bob's requests find room."""
    path = tmp_path / "keys"
    path.write_text(KEYS)
    server = conftest.Server("--ctx-size", 4096, "--kv-cache-bytes", 256 << 20, "--parallel", 1, "--max-queue", 4,
                             "--api-key-file", path)

    def post(key, **body):
        return requests.post(server.url + "/v1/completions", headers={"X-Api-Key": key}, timeout=PATIENCE_S,
                             json=dict(prompt=[1, 2, 3], **body), stream=bool(body.get("stream")))

    def count(state):
        text = requests.get(server.url + "/metrics", headers={"X-Api-Key": "beta-key"}, timeout=PATIENCE_S).text
        return [line for line in text.splitlines() if line.startswith(f"octavo_sequences_{state} ")][0].split()[1]

    holder = post("alpha-key", max_tokens=4000, ignore_eos=True, stream=True, temperature=0)
    wait_until(lambda: count("running") == "1", "the first one runs")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        queued = [pool.submit(post, key, max_tokens=2) for key in ("alpha-key", "gamma-key")]
        wait_until(lambda: count("waiting") == "2", "two of hers wait")
        for key in ("alpha-key", "gamma-key"):
            refused = post(key, max_tokens=2)
            assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
            error = refused.json()["error"]
            assert error["code"] == "server_busy" and "--max-queued-per-key 2" in error["message"]
        queued += [pool.submit(post, key, max_tokens=2) for key in ("beta-key", "plain-key")]
        wait_until(lambda: count("waiting") == "4", "others found room")
        assert "--max-queue 4" in post("beta-key", max_tokens=2).json()["error"]["message"]
        holder.close()
        assert [reply.result().status_code for reply in queued] == [200] * 4
    server.stop()


def test_bad_key_file(tmp_path):
    for text, part in (("a b c\n", ":1:"), ("", "has no key")):
        (tmp_path / "keys").write_text(text)
        done = subprocess.run([BINARY, "serve", MODEL, "--port", "0", "--api-key-file", tmp_path / "keys"],
                              capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 1 and part in done.stderr and "--api-key-file" in done.stderr
