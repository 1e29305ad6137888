"""Python's Jinja2 as transformers' apply_chat_template sets it up, and octavo's interpreter, on the same jobs.

The built programs are looked for in $OCTAVO_BUILD (default: build/release), chat templates in $OCTAVO_TEMPLATES
(default: models/templates): any folder of *.jinja files, such as vendor/llama.cpp/models/templates of the PyPI sdist of
llama-cpp-python.
"""
import datetime
import json
import os
import pathlib
import subprocess

import jinja2
from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")) / "jinja"
TEMPLATES = pathlib.Path(os.environ.get("OCTAVO_TEMPLATES", ROOT / "models/templates"))
NOW = 1700000000  # 2023-11-14 22:13:20 UTC


class FrozenTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, tz)


chat_template_utils.datetime = FrozenTime


def compiled(template):
    return chat_template_utils._compile_jinja_template(template)


def rendered(template, context):
    """("output", text), ("raised", message of raise_exception) or ("error", what Python said)."""
    try:
        return "output", compiled(template).render(**context)
    except jinja2.TemplateError as e:
        return ("raised" if type(e) is jinja2.TemplateError else "error"), str(e)
    except Exception as e:  # whatever Python's operators throw
        return "error", f"{type(e).__name__}: {e}"


def ours(jobs, literal=("bos_token", "eos_token")):
    """For (template, context) pairs what the tool says, a dict each."""
    lines = "".join(json.dumps({"template": t, "context": c, "literal": list(literal), "now": NOW}) + "\n"
                    for t, c in jobs)
    done = subprocess.run([TOOL], input=lines.encode(), stdout=subprocess.PIPE, check=True,
                          env={**os.environ, "TZ": os.environ.get("TZ", "UTC")})
    return [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]


def differences(jobs):
    """Where the two do not agree, as texts."""
    out = []
    for (template, context), mine in zip(jobs, ours(jobs), strict=True):
        kind, text = rendered(template, context)
        if kind == "output" and mine.get("output") != text:
            out.append(f"{template[:200]!r}\n  {str(context)[:300]}\n  python: {text!r}\n  ours:   "
                       f"{mine.get('output', mine.get('error'))!r}")
        elif kind == "raised" and mine.get("error") != text[:479]:
            out.append(f"{template[:200]!r}\n  {str(context)[:300]}\n  python raises: {text!r}\n  ours: {mine}")
        elif kind == "error" and "error" not in mine:
            out.append(f"{template[:200]!r}\n  {str(context)[:300]}\n  python fails: {text}\n  ours:   "
                       f"{mine['output']!r}")
    return out
