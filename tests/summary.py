#!/usr/bin/env python3
"""Adds up what tests/run.sh left in a folder: JUnit reports, and steps.tsv (name, exit status, seconds).

A step without a report counts as one test (status 77: skipped). A step that failed although its report shows
no failure counts as one failure: a crash must not pass for success. The end of each failed step's log is shown last, where a log of CI
that was cut short still has it. Exits 1 when anything failed or nothing ran.
"""
import pathlib
import sys
import xml.etree.ElementTree as xml

folder = pathlib.Path(sys.argv[1])
passed = failed = 0
skips, failures, logs = [], [], []
LOG_LINES, LOG_WIDTH = 20, 160


def read_end(log):
    lines = log.read_text(errors="replace").splitlines() if log.exists() else ["no log"]
    return [line[:LOG_WIDTH] for line in lines[-LOG_LINES:]]


for line in (folder / "steps.tsv").read_text().splitlines():
    name, status, _ = line.split("\t")
    report = folder / f"{name}.xml"
    bad = 0
    try:
        cases = list(xml.parse(report).getroot().iter("testcase"))
    except (FileNotFoundError, xml.ParseError):
        cases = []
    for case in cases:
        title = f"{name}: {case.get('name')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
            bad += 1
            failures.append(title)
        elif skip is not None or case.get("status") in ("notrun", "disabled"):
            reason = (skip.get("message") if skip is not None else None) or "not run"
            skips.append(f"{title}: {reason}")
        else:
            passed += 1
    failed += bad
    if status == "77" and not cases:
        skips.append(f"{name}: see {folder}/{name}.log")
    elif status != "0" and not bad:
        failed += 1
        failures.append(f"{name}: exit status {status}, see {folder}/{name}.log")
    elif status == "0" and not cases:
        passed += 1
    if status not in ("0", "77"):
        logs.append((name, read_end(folder / f"{name}.log")))
if skips:
    print(f"\nSKIPPED, {len(skips)}:")
    print("\n".join(f"  {skip}" for skip in skips))
for name, lines in logs:
    print(f"\nThe end of {name}.log:")
    print("\n".join(f"  {line}" for line in lines))
if failures:
    print(f"\nFAILED, {len(failures)}:")
    print("\n".join(f"  {failure}" for failure in failures))
print(f"\n{passed} passed, {failed} failed, {len(skips)} skipped")
sys.exit(1 if failed or not passed else 0)
