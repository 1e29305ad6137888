"""The command line from outside: exit codes, messages, and `octavo inspect` against the Python package gguf."""
import json
import os
import pathlib
import subprocess

import gguf
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OCTAVO = pathlib.Path(os.environ.get("OCTAVO_BIN", ROOT / "build/release/octavo"))


def octavo(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")}
    return subprocess.run([OCTAVO, *map(str, arguments)], capture_output=True, text=True,
                          env={**clean, **environment}, timeout=600)


@pytest.mark.parametrize("arguments, code, message", [
    ([], 2, "Usage: octavo COMMAND"),
    (["serv"], 2, "unknown command 'serv'; did you mean 'serve'?"),
    (["serve"], 2, "no model is named"),
    (["serve", "m.gguf", "--ctx-sise", "1"], 2, "unknown option '--ctx-sise'; did you mean '--ctx-size'?"),
    (["serve", "m.gguf", "--kv-cache-bytes", "1Gi", "--kv-cache-gib", "2"], 2,
     "--kv-cache-gib 2 contradicts --kv-cache-bytes 1Gi"),
    (["serve", "m.gguf", "--port", "0x50"], 2, "--port: '0x50' is not a whole number"),
    (["serve", "no-such-file.gguf"], 1, "no-such-file.gguf"),
    (["inspect"], 2, "no model is named"),
    (["inspect", "no-such-file.gguf"], 1, "no-such-file.gguf: No such file or directory"),
    (["inspect", "m.gguf", "--jsn"], 2, "unknown option '--jsn'; did you mean '--json'?"),
    (["bench"], 2, "Usage: octavo bench"),
    (["bench", "serv"], 2, "did you mean 'serve'?"),
    (["bench", "serve", "--url", "https://localhost"], 2, "only http:// is supported"),
    (["bench", "serve", "--url", "http://127.0.0.1:1"], 1, "Connection refused"),
    (["bench", "capacity"], 2, "no model is named"),
])
def test_faults_have_a_message_and_a_code(arguments, code, message):
    done = octavo(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments, words", [
    (["--help"], ["serve", "inspect", "bench", "version"]),
    (["--version"], ["octavo ", "compiler: ", "processor: "]),
    (["version"], ["octavo "]),
    (["serve", "--version"], ["octavo "]),
    (["serve", "--help"], ["--kv-format LIST", "--cpu auto|scalar", "OCTAVO_KV_RECENT", "default 8080"]),
    (["inspect", "--help"], ["--json"]),
    (["bench", "--help"], ["capacity"]),
    (["bench", "serve", "--help"], ["--concurrency", "--prompt-tokens A[:B]"]),
    (["bench", "capacity", "--help"], ["--formats LIST"]),
])
def test_help_goes_to_standard_output(arguments, words):
    done = octavo(*arguments)
    assert done.returncode == 0
    assert done.stderr == ""
    for word in words:
        assert word in done.stdout


def test_print_config_reads_back(tmp_path):
    first = octavo("serve", "a model.gguf", "--port", 0, "--kv-cache-gib", "1.5", "--print-config",
                   OCTAVO_KV_FORMAT="o2", OCTAVO_API_KEY="hush")
    assert first.returncode == 0
    assert "hush" not in first.stdout
    assert "kv-cache-bytes = 1610612736" in first.stdout
    assert "# environment, OCTAVO_KV_FORMAT" in first.stdout
    (tmp_path / "octavo.ini").write_text(first.stdout)
    again = octavo("serve", "--config", tmp_path / "octavo.ini", "--print-config")
    assert again.returncode == 0

    def values(text):
        lines = [line.split("#")[0].strip() for line in text.splitlines()]
        return [line for line in lines if line]

    assert values(again.stdout) == values(first.stdout)


def write_model(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a \u20ac \n name")
    writer.add_block_count(2)
    writer.add_rope_freq_base(10000.5)
    writer.add_bool("a.bool", True)
    writer.add_int64("a.i64", -2**40)
    writer.add_float64("a.f64", 0.1)
    writer.add_array("a.words", ["one", "two\t", "\u00fc"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_tensor("blk.0.weight", np.arange(96, dtype=np.float32).reshape(3, 32))
    writer.add_tensor("blk.1.weight", np.arange(64, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_inspect_says_what_the_gguf_package_says(tmp_path):
    path = tmp_path / "model.gguf"
    write_model(path)
    done = octavo("inspect", path, "--json", "--elements", 10)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    reader = gguf.GGUFReader(path)
    assert seen["file_bytes"] == path.stat().st_size
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert [key["name"] for key in seen["keys"]] == list(fields)
    for key in seen["keys"]:
        field = fields[key["name"]]
        expected = field.contents()
        if field.types[-1] == gguf.GGUFValueType.FLOAT32:
            expected = float(np.float32(expected))
            key["value"] = float(np.float32(key["value"]))
        assert key["value"] == expected, key["name"]
    assert [tensor["name"] for tensor in seen["tensors"]] == [tensor.name for tensor in reader.tensors]
    for mine, theirs in zip(seen["tensors"], reader.tensors):
        assert mine["type"] == theirs.tensor_type.name
        assert mine["dims"] == [int(dim) for dim in theirs.shape]
        assert mine["bytes"] == theirs.n_bytes
        assert mine["offset"] == theirs.data_offset
