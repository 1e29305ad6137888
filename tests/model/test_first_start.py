"""The first start of a server whose cache format wants a calibration: made, kept, found again, and stopped."""
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")).absolute()
OCTAVO = pathlib.Path(os.environ.get("OCTAVO_BIN", BUILD / "octavo")).absolute()
PATIENCE_S = 600

pytestmark = pytest.mark.skipif(not OCTAVO.exists(), reason=f"{OCTAVO} is not built")


class Start:
    """`octavo serve`, its home a folder of the test's."""

    def __init__(self, model, home, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OCTAVO_", "XDG_"))}
        self.log = open(model.parent / f"log{self.port}", "w+")
        self.process = subprocess.Popen(
            [OCTAVO, "serve", model, "--port", str(self.port), "--kv-cache-bytes", "16Mi", *options],
            stderr=self.log, env={**environment, "HOME": str(home)})

    def health(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def text(self):
        return pathlib.Path(self.log.name).read_text()

    def wait(self, condition, what):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.text()}"
            assert time.monotonic() < end, f"never happened: {what}\n{self.text()}"
            time.sleep(0.02)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE_S)
        self.log.close()
        return status


def log_of_start(model, home, *options):
    start = Start(model, home, *options)
    start.wait(lambda: start.health() == 200, "ready")
    assert start.stop() == 0
    return start.text()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "models" / "tiny.gguf"
    path.parent.mkdir()
    subprocess.run([BUILD / "tiny", path, "layers=1", "heads=2", "kv_heads=1", "head_dim=32", "embd=64", "ff=64"],
                   check=True)
    return path


def test_made_once_and_kept_beside_the_model(model, tmp_path):
    side = model.with_name("tiny.gguf.octocal")
    for options in ("--kv-format", "f16"), ("--no-calibration",), ("--kv-format", "f16,o2", "--no-calibration"):
        assert "calibration:" not in log_of_start(model, tmp_path, *options)
        assert not side.exists()
    first = log_of_start(model, tmp_path)  # the default format is o2
    assert "calibration: made in" in first and f"calibration: kept in {side}" in first
    assert "format o2:" in first and "; the default" in first and "uncalibrated" not in first
    again = log_of_start(model, tmp_path, "--kv-format", "f16,o4")
    assert f"calibration: from {side}" in again and "calibration: made" not in again and "uncalibrated" not in again
    # What the server made is what the command makes.
    other = tmp_path / "other.octocal"
    subprocess.run([OCTAVO, "calibrate", model, "-o", other], check=True, capture_output=True)
    assert side.read_bytes() == other.read_bytes()
    # A damaged one is made again.
    side.write_bytes(other.read_bytes()[:-1] + b"?")
    mended = log_of_start(model, tmp_path, "--kv-format", "o2")
    assert "checksum" in mended or "damaged" in mended
    assert side.read_bytes() == other.read_bytes()


def test_kept_in_the_cache_folder_when_the_model_s_cannot_be_written(model, tmp_path):
    model.with_name("tiny.gguf.octocal").mkdir()  # in the way even of root
    first = log_of_start(model, tmp_path, "--kv-format", "o2")
    kept = list((tmp_path / ".cache" / "octavo").iterdir())
    assert len(kept) == 1 and f"calibration: kept in {kept[0]}" in first
    again = log_of_start(model, tmp_path, "--kv-format", "o2")
    assert f"calibration: from {kept[0]}" in again and "calibration: made" not in again


def test_served_without_a_place_to_keep_it(model):
    model.with_name("tiny.gguf.octocal").mkdir()
    log = log_of_start(model, "/proc/nowhere", "--kv-format", "o2")
    assert "calibration: made in" in log and "could not be kept" in log


def test_a_signal_ends_it(tmp_path):
    model = tmp_path / "tiny.gguf"  # not so tiny: its calibration lasts
    subprocess.run([BUILD / "tiny", model, "layers=8", "heads=4", "kv_heads=4", "head_dim=64", "embd=256", "ff=512"],
                   check=True)
    start = Start(model, tmp_path, "--kv-format", "o2")
    start.wait(lambda: "measuring it on built-in text" in start.text(), "it calibrates")
    assert start.health() in (503, None)
    assert start.stop() == 0
    assert "stopped" in start.text()
    assert not model.with_name("tiny.gguf.octocal").exists()


def test_a_named_file_must_be_good(model, tmp_path):
    start = Start(model, tmp_path, "--kv-format", "o2", "--calibration", tmp_path / "missing")
    assert start.process.wait(PATIENCE_S) == 1
    assert f"{tmp_path / 'missing'}: No such file" in start.text()
