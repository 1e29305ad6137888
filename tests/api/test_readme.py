"""The examples in README.md that have the mark <!-- tested --> do what they say, against a server."""
import re
import subprocess
import sys

import pytest

from conftest import PATIENCE_S, ROOT, real

MARK = re.compile(r"^<!-- tested -->\n```(\w+)\n(.*?)^```$", re.M | re.S)
BLOCKS = MARK.findall((ROOT / "README.md").read_text())
CURL = 'set -eu\ncurl() { command curl -sS --fail-with-body "$@"; echo; }\n'


def test_marks():
    """No mark stands where no block follows."""
    assert len(BLOCKS) == (ROOT / "README.md").read_text().count("<!-- tested -->") >= 4
    assert {language for language, _ in BLOCKS} == {"sh", "python"}


@real
@pytest.mark.parametrize("language, text", BLOCKS, ids=[text.split("\n")[0][:50] for _, text in BLOCKS])
def test_block(server, language, text):
    assert "localhost:8080" in text
    text = text.replace("localhost:8080", f"127.0.0.1:{server.port}")
    command = ["bash", "-c", CURL + text] if language == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
