"""The document at /openapi.json: it is valid, it lists what the server has, and the server keeps to it.

schemathesis makes requests out of it, right and wrong ones. OCTAVO_SCHEMATHESIS=N asks for N of each kind to each path
(default 5), OCTAVO_SCHEMATHESIS_S for so many seconds at most (default 45)."""
import collections
import itertools
import json
import os
import re
import subprocess
import time

import pytest
import requests

import conftest
from conftest import BINARY, PATIENCE_S, ROOT

EXAMPLES = int(os.environ.get("OCTAVO_SCHEMATHESIS", 5))
SECONDS = float(os.environ.get("OCTAVO_SCHEMATHESIS_S", 45))


@pytest.fixture(scope="module")
def document(server):
    reply = requests.get(server.url + "/openapi.json", timeout=PATIENCE_S)
    assert reply.status_code == 200 and reply.headers["Content-Type"] == "application/json"
    return reply.json()


def references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def test_document(document):
    """The file in the tree, of this version; no reference leads nowhere, no name is there twice or for nothing."""
    assert document == json.loads((ROOT / "server/openapi.json").read_text())
    version = re.search(r'OCTAVO_VERSION "(.*)"', (ROOT / "config/version.h").read_text())[1]
    assert document["openapi"] == "3.1.0" and document["info"]["version"] == version
    used = set(references(document))
    for reference in used:
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    components = document["components"]
    assert used == {f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in components[kind]}
    operations = [o["operationId"] for path in document["paths"].values() for o in path.values()]
    assert len(operations) == len(set(operations))


def test_every_route(document):
    """What server/api.c routes is documented, but for the web page's files, and nothing else."""
    routes = re.findall(r'\.method = "(\w+)",\s*\.path = "([^"]+)"(,\s*\.prefix = true)?(?![^}]*web_handle)',
                        (ROOT / "server/api.c").read_text())
    wanted = {(method.lower(), path) for method, path, prefix in routes if not prefix}
    documented = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert {d for d in documented if "{" not in d[1]} == wanted
    assert {d[1].split("{")[0] for d in documented if "{" in d[1]} == {path for _, path, prefix in routes if prefix}


def test_faults_are_documented(server, document):
    """Every POST answers nonsense with a 400 in the documented shape."""
    for path, methods in document["paths"].items():
        if "post" not in methods:
            continue
        reply = requests.post(server.url + path, data="{", timeout=PATIENCE_S)
        assert reply.status_code == 400, path
        responses = methods["post"]["responses"]
        anthropic = "AnthropicFault" in json.dumps(responses.get("4XX", {}))
        assert ("type" in reply.json()) == anthropic and reply.json()["error"]["message"], path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model that answers at once."""
    if not (BINARY.parent / "tiny").exists():
        pytest.skip(f"{BINARY.parent / 'tiny'} is not built")
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    subprocess.run([BINARY.parent / "tiny", path], check=True)
    server = conftest.Server("--ctx-size", 64, "--parallel", 128, "--kv-cache-bytes", 64 << 20, model=path)
    yield server
    conftest.wait_until(server.is_idle, "all sequences are gone")
    server.stop()


def test_schemathesis(tiny):
    """Replies have documented statuses, types and shapes; none is a 5xx but the documented 504 of timeout_ms."""
    schemathesis = pytest.importorskip("schemathesis", reason="SKIPPED: schemathesis is not installed (tests/setup.sh test)")
    import hypothesis
    from schemathesis.specs.openapi import checks
    wanted = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    session, counts, faults, end = requests.Session(), collections.Counter(), [], time.monotonic() + SECONDS

    def run(operation, mode):
        @hypothesis.seed(7)
        @hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[hypothesis.Phase.generate],
                             suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def call(case):
            if time.monotonic() > end:
                return
            reply = case.call(base_url=tiny.url, session=session, timeout=PATIENCE_S)
            counts[reply.status_code] += 1
            for check in wanted:
                try:
                    case.validate_response(reply, checks=[check])
                except BaseExceptionGroup as group:
                    faults.append((operation.label, reply.status_code, case.body, str(group.exceptions[0])[:500]))
            if reply.status_code >= 500 and reply.status_code != 504:
                faults.append((operation.label, reply.status_code, case.body, reply.text))
        call()

    operations = [r.ok() for r in schemathesis.openapi.from_url(tiny.url + "/openapi.json").get_all_operations()]
    assert len(operations) > 20
    for operation, mode in itertools.product(operations, schemathesis.GenerationMode):
        if time.monotonic() < end:
            try:
                run(operation, mode)
            except hypothesis.errors.Unsatisfiable:
                pass  # nothing can be wrong with a GET without parameters
    print(f"{sum(counts.values())} calls: {dict(counts)}")
    assert not faults, faults[:5]
    assert counts[200] and counts[400]
