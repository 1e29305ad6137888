"""A server of one's own for a measurement, and what its /metrics say."""
import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PATIENCE_S = 300  # for one small reply, on a busy machine


def arguments_parse(description, add_arguments):
    """(options, model arguments, further options of octavo serve): those behind -- are the server's."""
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--shape", help="a dummy model of this shape in place of a file")
    parser.add_argument("--octavo", default="build/release/octavo")
    parser.add_argument("--json", metavar="FILE", help="write everything measured there")
    add_arguments(parser)
    options = parser.parse_args(arguments[:cut])
    if bool(options.model) == bool(options.shape):
        parser.error("name a model or a --shape")
    what = [options.model] if options.model else ["--load-format", "dummy", "--shape", options.shape]
    return options, what, arguments[cut + 1:]


class Server:
    """`with Server(octavo, model arguments, options) as server:`; ready when it comes, stopped when it goes."""

    def __init__(self, octavo, *arguments, ready_s=600):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.octavo, self.ready_s = octavo, ready_s
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [octavo, "serve", *map(str, arguments), "--port", str(self.port), "--log-level", "warn"]

    def __enter__(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")}
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stderr=self.log, env=environment)
        end = time.monotonic() + self.ready_s
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                self.log.seek(0)
                raise RuntimeError(f"the server is not ready: {self.log.read()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ready(self):
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5):
                return True
        except OSError:
            return False

    def get(self, path):
        """The JSON there."""
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as reply:
            return json.load(reply)

    def metrics(self):
        """{name or name{labels}: value}"""
        with urllib.request.urlopen(self.url + "/metrics", timeout=PATIENCE_S) as reply:
            found = re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", reply.read().decode(), re.M)
        return {name: float(value) for name, value in found}

    def load(self, *arguments):
        """`octavo bench serve` with these arguments -> its report."""
        done = subprocess.run([self.octavo, "bench", "serve", "--url", self.url, "--json", *map(str, arguments)],
                              stdout=subprocess.PIPE, text=True)
        if not done.stdout:
            raise RuntimeError("octavo bench serve gave no report")
        return json.loads(done.stdout)
