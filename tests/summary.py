#!/usr/bin/env python3
"""Adds up what tests/run.sh left in a folder: JUnit reports, and steps.tsv (name, exit status, seconds).

A step without a report counts as one test (status 77: skipped). A step that failed although its report shows
no failure counts as one failure: a crash must not pass for success. NAME-again is the second try of what failed in step NAME:
what passes there counts as passed and is listed. Why each test failed, and the end of the log of a step that failed without
one, is shown last, where a log of CI that was cut short still has it. Exits 1 when anything failed or nothing ran.
"""
import pathlib
import re
import sys
import xml.etree.ElementTree as xml

folder = pathlib.Path(sys.argv[1])
passed = failed = 0
skips, failures, second, reasons = [], [], [], []
LOG_LINES, LOG_WIDTH = 20, 160
SANITIZER = re.compile(r"Sanitizer|runtime error:")


def cut(lines):
    return [line[:LOG_WIDTH] for line in lines]


def read_end(log):
    lines = log.read_text(errors="replace").splitlines() if log.exists() else ["no log"]
    return cut(lines[-LOG_LINES:])


def read_reason(case):
    """What failed: a sanitizer's finding from its beginning, else the end of what the test said."""
    bad = next((found for kind in ("failure", "error", "system-out") if (found := case.find(kind)) is not None), None)
    lines = [] if bad is None else (bad.text or bad.get("message") or "").splitlines()
    said = [line for line in lines if line.startswith("E ")] or lines  # pytest's mark, before which it shows the source
    first = next((i for i, line in enumerate(said) if SANITIZER.search(line)), max(0, len(said) - LOG_LINES))
    return cut(said[first:first + LOG_LINES] + lines[-1:])


def read_cases(name):
    try:
        return list(xml.parse(folder / f"{name}.xml").getroot().iter("testcase"))
    except (FileNotFoundError, xml.ParseError):
        return []


def is_bad(case):
    return case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail"


def passed_again(name):
    """{(class, test)} that the second try passed."""
    good, bad = set(), set()
    for case in read_cases(f"{name}-again"):
        if case.find("skipped") is None:
            (bad if is_bad(case) else good).add((case.get("classname"), case.get("name")))
    return good - bad


for line in (folder / "steps.tsv").read_text().splitlines():
    name, status, _ = line.split("\t")
    if name.endswith("-again"):
        continue
    cases, again = read_cases(name), passed_again(name)
    bad = mended = 0
    for case in cases:
        title = f"{name}: {case.get('name')}"
        skip = case.find("skipped")
        if is_bad(case) and (case.get("classname"), case.get("name")) in again:
            mended += 1
            second.append(title)
            reasons.append((f"{title}, first try", read_reason(case)))
        elif is_bad(case):
            bad += 1
            failures.append(title)
            reasons.append((title, read_reason(case)))
        elif skip is not None or case.get("status") in ("notrun", "disabled"):
            reason = (skip.get("message") if skip is not None else None) or "not run"
            skips.append(f"{title}: {reason}")
        else:
            passed += 1
    failed += bad
    passed += mended
    if status == "77" and not cases:
        skips.append(f"{name}: see {folder}/{name}.log")
    elif status != "0" and not bad and not mended:
        failed += 1
        failures.append(f"{name}: exit status {status}, see {folder}/{name}.log")
    elif status == "0" and not cases:
        passed += 1
    if status not in ("0", "77") and not bad and not mended:
        reasons.append((f"the end of {name}.log", read_end(folder / f"{name}.log")))
if skips:
    print(f"\nSKIPPED, {len(skips)}:")
    print("\n".join(f"  {skip}" for skip in skips))
for title, lines in reasons:
    print(f"\n{title}:")
    print("\n".join(f"  {line}" for line in lines))
if second:
    print(f"\nPASSED AT THE SECOND TRY, {len(second)}; each is a test to make certain:")
    print("\n".join(f"  {title}" for title in second))
if failures:
    print(f"\nFAILED, {len(failures)}:")
    print("\n".join(f"  {failure}" for failure in failures))
print(f"\n{passed} passed, {failed} failed, {len(skips)} skipped")
sys.exit(1 if failed or not passed else 0)
