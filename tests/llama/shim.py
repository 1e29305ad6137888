#!/usr/bin/env python3
"""llama-server's command line on octavo, for llama.cpp's own server tests: LLAMA_SERVER_BIN_PATH=tests/llama/shim.py.

Flags are mapped, dropped when they change nothing here, or refused with the reason when they ask for what octavo does
not have. Models are not downloaded: every one is $OCTAVO_MODELS/smollm2.gguf, infill's is qwen05.gguf.
"""
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = pathlib.Path(os.environ.get("OCTAVO_MODELS", ROOT / "models"))
BINARY = os.environ.get("OCTAVO_BIN", str(ROOT / "build/release/octavo"))

SAME = {"--host": "--host", "--port": "--port", "--api-key": "--api-key", "--threads": "--threads",
        "--chat-template-file": "--chat-template", "--temp": "--temperature", "--seed": "--seed", "--n-predict": "--n-predict",
        "--cors-origins": "--cors-origins"}
# With a value; llama-server's defaults or its way of working, which requests do not see.
DROPPED = {"--ubatch-size", "--n-gpu-layers", "-ctk", "-ctv", "-fa", "--cache-ram",
           "--hf-repo", "--hf-file", "--model-url", "--model", "--reasoning-format"}
DROPPED_BARE = {"--offline", "--cont-batching", "--metrics", "--slots", "--no-slots", "--jinja", "--no-jinja", "--verbose",
                "--kv-unified", "--swa-full", "--no-cache-idle-slots", "--no-mmproj"}
REFUSED = {
    "--embedding": "embedding models", "--reranking": "rerankers", "--lora": "adapters", "--model-draft": "draft models",
    "--spec-type": "draft models", "--mmproj-url": "images", "--media-path": "images", "--slot-save-path": "slots that are saved by hand",
    "--grp-attn-n": "self-extension of the context", "--context-shift": "context shift", "--models-dir": "a router of models",
    "--models-max": "a router of models", "--models-preset": "a router of models", "--no-models-autoload": "a router of models",
    "--sleep-idle-seconds": "sleep when idle", "--ui-mcp-proxy": "MCP", "--tools": "tools that the server runs",
    "--tools-runtime": "tools that the server runs", "--mcp-servers-config": "MCP", "--mcp-servers-json": "MCP",
    "--backend_sampling": "sampling on the device",
    "--pooling": "embedding models", "--tags": "tags of a model", "--chat-template": "templates by name",
}
# By a part of their names: models that tests want for what octavo does not have.
MODELS_WITHOUT = {"gemma3": "images", "bert": "embedding models", "jina": "rerankers", "MOE": "adapters",
                  "-of-0": "GGUF files in parts"}


def refuse(what):
    sys.exit(f"shim: octavo does not have {what}")


def main(arguments):
    out = [BINARY, "serve", "--kv-format", "f16", "--no-calibration", "--kv-cache-bytes", "256M", "--any-model"]
    n_ctx, n_slots, model, thinking = 0, 1, "smollm2", True  # llama-server has templates think unless told otherwise
    if "AIP_MODE" in os.environ:
        refuse("the shapes of Vertex AI")
    i = 0
    while i < len(arguments):
        flag, value = arguments[i], arguments[i + 1] if i + 1 < len(arguments) else ""
        if flag in REFUSED:
            refuse(REFUSED[flag])
        if flag in DROPPED_BARE or flag == "--no-ui":
            out += [flag] * (flag == "--no-ui")
            i += 1
            continue
        i += 2
        if "infill" in value:
            model = "qwen05"
        if flag.startswith("--hf"):
            for kind, what in MODELS_WITHOUT.items():
                if kind in value:
                    refuse(what)
        if flag in SAME:
            out += [SAME[flag], value]
        elif flag == "--alias":
            out += ["--served-model-name", value]
        elif flag == "--reasoning":
            thinking = value != "off"
        elif flag == "--ctx-size":
            n_ctx = int(value)
        elif flag == "--parallel":
            n_slots = int(value)
        elif flag == "--batch-size":
            out += ["--max-batch-tokens", str(max(int(value), 16))]
        elif flag not in DROPPED:
            refuse(f"{flag}, which this shim does not know")
    if "--hf-repo" not in arguments and "--model" not in arguments and "--model-url" not in arguments:
        refuse("a router of models")
    if n_ctx:
        out += ["--ctx-size", str(n_ctx if "--kv-unified" in arguments else n_ctx // n_slots)]
    out += ["--chat-template-kwargs", json.dumps({"enable_thinking": thinking})]
    out += ["--parallel", str(n_slots), str(MODELS / f"{model}.gguf")]
    os.execve(BINARY, out, {k: v for k, v in os.environ.items() if not k.startswith("OCTAVO_")})


main(sys.argv[1:])
