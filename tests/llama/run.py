#!/usr/bin/env python3
"""llama.cpp's own server tests against octavo: what passes, and why each of the others does not.

    tests/llama/run.py FOLDER [--json OUT] [pytest arguments]     runs them
    tests/llama/run.py --page docs/llama-server-tests.md OUT...   writes what runs gave, with the reasons

FOLDER is tools/server/tests of llama.cpp's source, with models/templates three folders up. Tests marked slow, which are about
models of many gigabytes, are left out, as llama.cpp's own tests.sh leaves them out; -m 'slow or not slow' brings them. Needs pytest, openai, requests,
wget, filelock, numpy, aiohttp and prometheus-client. The reason of a failure is what shim.py refused, or the first line of
reasons.txt whose pattern matches the test's name; what has none is printed as UNEXPLAINED, and then the exit status is 1,
as it is when a page is asked for and a line of reasons.txt stands for no test.
"""
import argparse
import collections
import fnmatch
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent
REASONS = [re.split(r"\s{2,}", line, maxsplit=1) for line in (HERE / "reasons.txt").read_text().splitlines()
           if line and not line.startswith("#")]
PAGE = """# llama.cpp's server tests on octavo

llama.cpp tests its server with {total} tests (tools/server/tests, without those marked slow). On octavo {passed} of them pass,
{skipped} are skipped by llama.cpp itself, and {failed} do not pass, for the reasons below. `tests/llama/shim.py` maps llama-server's flags to
octavo's, and SmolLM2-135M-Instruct (for fill in the middle Qwen2.5-Coder-0.5B) stands for every model that they would download,
so tests that wait for the words or the token counts of another model cannot pass. The tests are those in the source package of
llama-cpp-python 0.3.36:

```
pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
tar -xzf llama_cpp_python-0.3.36.tar.gz --strip-components=2 \\
    llama_cpp_python-0.3.36/vendor/llama.cpp/{{tools/server/tests,models/templates}}
pip install pytest openai requests wget filelock numpy aiohttp prometheus-client
tests/models.sh smollm2 qwen05
tests/llama/run.py llama.cpp/tools/server/tests --json results.json
tests/llama/run.py --page docs/llama-server-tests.md results.json  # writes this page
```

| file | passed | not | skipped |
|---|---|---|---|
{table}

## What does not pass, and why
"""


def reason_of(row):
    if row["refused"]:
        return row["refused"]
    return next((reason for pattern, reason in REASONS if fnmatch.fnmatchcase(row["test"], pattern)), None)


def run(folder, arguments):
    with tempfile.TemporaryDirectory() as scratch:
        report = pathlib.Path(scratch) / "report.xml"
        environment = {**os.environ, "LLAMA_SERVER_BIN_PATH": str(HERE / "shim.py"), "PORT": os.environ.get("PORT", "18080"),
                       "PYTHONPATH": str(HERE)}
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "llama_plugin", "-p", "no:cacheprovider", "-o", "junit_logging=all",
                        f"--junit-xml={report}", *arguments], cwd=folder, env=environment, stdout=sys.stderr)
        cases = xml.etree.ElementTree.parse(report).iter("testcase")
        return [row_of(case) for case in cases]


def row_of(case):
    failed = case.find("failure") if case.find("failure") is not None else case.find("error")
    outcome = "skipped" if case.find("skipped") is not None else "failed" if failed is not None else "passed"
    refused = re.search(r"shim: (octavo does not have .*)", "".join(case.itertext())) if failed is not None else None
    return {"test": case.get("classname").split(".")[-1] + "::" + case.get("name"), "outcome": outcome,
            "refused": refused[1] if refused else None,
            "what": (failed.get("message") or "")[:200] if failed is not None else None}


def count(rows):
    files = collections.defaultdict(collections.Counter)
    for row in rows:
        files[row["test"].split("::")[0]][row["outcome"]] += 1
    return "\n".join(f"| {name} | {n['passed']} | {n['failed']} | {n['skipped']} |" for name, n in sorted(files.items()))


def page(rows):
    """Tests of one function stand together: "name (2 of 5)" for those of its parameters that do not pass."""
    outcomes = collections.Counter(row["outcome"] for row in rows)
    text = PAGE.format(table=count(rows), total=len(rows), **{name: outcomes[name] for name in ("passed", "failed", "skipped")})
    function = {row["test"]: row["test"].split("[")[0] for row in rows}
    sizes = collections.Counter(function.values())
    why = collections.defaultdict(collections.Counter)
    for row in rows:
        if row["outcome"] == "failed":
            why[row["test"].split("::")[0], reason_of(row)][function[row["test"]]] += 1
    previous = None
    for file, reason in sorted(why, key=lambda key: (key[0], -sum(why[key].values()))):
        if file != previous:
            text += f"\n**{file}**\n\n"
        previous = file
        names = (name.split("::")[1] + (f" ({n} of {sizes[name]})" if sizes[name] > 1 else "")
                 for name, n in sorted(why[file, reason].items()))
        text += f"- {reason}: {', '.join(names)}\n"
    return text


def complain(rows, reasons_too):
    failed = [row for row in rows if row["outcome"] == "failed"]
    faults = [f"UNEXPLAINED {row['test']}: {row['what']}" for row in failed if not reason_of(row)]
    if reasons_too:
        faults += [f"NO TEST for the reason of {pattern}" for pattern, _ in REASONS
                   if not any(fnmatch.fnmatchcase(row["test"], pattern) for row in failed)]
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--json")
    parser.add_argument("--page", nargs="+", metavar=("PAGE", "OUT"))
    options, arguments = parser.parse_known_args()
    if options.page:
        rows = [row for path in options.page[1:] for row in json.loads(pathlib.Path(path).read_text())]
        pathlib.Path(options.page[0]).write_text(page(rows))
    else:
        rows = run(options.folder, ["-m", "not slow", *(arguments or ["unit"])])
        print("| file | passed | failed | skipped by llama.cpp |\n|---|---|---|---|\n" + count(rows))
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps(rows, indent=1))
    complain(rows, options.page is not None)


main()
