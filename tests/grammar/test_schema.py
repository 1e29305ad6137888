"""JSON Schema as octavo enforces it, judged by Python's jsonschema: texts that its grammars derive, drawn at random, satisfy
the schema; instances that do not satisfy it are never derived; those that do are, within what model/grammar_text.h
promises.

The JSON Schema Test Suite's folder draft2020-12 is looked for in $OCTAVO_SCHEMA_SUITE (default: schema-suite/ in
$OCTAVO_MODELS), where tests/models.sh suite brings it."""
import collections
import json
import os
import pathlib
import random
import re
import sys
from decimal import Decimal, getcontext

import pytest
from jsonschema import Draft202012Validator

sys.path.insert(0, os.path.dirname(__file__))
import languages  # noqa: E402
import schemas  # noqa: E402

getcontext().prec = 200  # remainders of long numbers
SEED = int(os.environ.get("OCTAVO_TEST_SEED", "7"))
N_RANDOM = int(os.environ.get("OCTAVO_TEST_SCHEMAS", "800"))
SUITE = pathlib.Path(os.environ.get("OCTAVO_SCHEMA_SUITE", languages.MODELS / "schema-suite"))
# Bytes that walks prefer, so that strings and arrays come to an end.
WALK = {"walks": 5, "favourites": "\"}]:,", "max_bytes": 400}


def as_ecma(schema):
    """Patterns as ECMA-262 has them: Python's `$` also matches before a line feed at the end, its `.` a carriage return."""
    if isinstance(schema, list):
        return [as_ecma(item) for item in schema]
    if not isinstance(schema, dict):
        return schema

    def pattern(text):
        return re.sub(r"(?<!\\)\$(?=$|\)|\|)", r"\\Z", text).replace("^.", "^[^\n\r\u2028\u2029]")

    return {key: pattern(value) if key == "pattern" and isinstance(value, str) else
            value if key in ("const", "enum") else as_ecma(value) for key, value in schema.items()}


class Judge:
    """Numbers as decimals, so that multipleOf is exact."""

    endless = 0  # texts of which jsonschema has no opinion

    def __init__(self, schema):
        exact = json.loads(json.dumps(as_ecma(schema)), parse_float=Decimal)
        self.validator = Draft202012Validator(exact, format_checker=Draft202012Validator.FORMAT_CHECKER)

    def accepts(self, text):
        try:
            return self.validator.is_valid(json.loads(text, parse_float=Decimal))
        except RecursionError:
            # A schema that includes itself in a branch that can never hold: the draft leaves its meaning open.
            Judge.endless += 1
            return True


def spellings(value):
    return [json.dumps(value, ensure_ascii=False, separators=(",", ":")), json.dumps(value, ensure_ascii=False),
            json.dumps(value, ensure_ascii=False, indent=2)]


def test_table():
    jobs = []
    for i, (schema, good, bad) in enumerate(schemas.CASES):
        texts = [text for value in good + bad for text in spellings(value)]
        jobs.append({"schema": schema, "texts": texts, "seed": i, **WALK})
    found = []
    for (schema, good, bad), job, answer in zip(schemas.CASES, jobs, languages.ask(jobs), strict=True):
        name, judge = json.dumps(schema), Judge(schema)
        if "error" in answer:
            found.append(f"{name}: {answer['error']}")
            continue
        for i, (text, accepted) in enumerate(zip(job["texts"], answer["accepted"], strict=True)):
            if (accepted == "1") != (i < 3 * len(good)):
                found.append(f"{name}: {text} {'accepted' if accepted == '1' else 'refused'}")
            if judge.accepts(text) != (i < 3 * len(good)):
                found.append(f"{name}: jsonschema thinks otherwise of {text}")
        found += [f"{name}: derived {text}" for text in answer["walks"] if not judge.accepts(text)]
        found += [f"{name}: dead end after {text}" for text in answer["dead"]]
    assert not found, f"{len(found)}:\n" + "\n".join(found[:20])
    assert len(schemas.CASES) >= 150


def test_refused_schemas_name_the_place():
    answers = languages.ask([{"schema": schema} for schema, _ in schemas.REFUSED])
    found = [(schema, answer.get("error")) for (schema, place), answer in zip(schemas.REFUSED, answers, strict=True)
             if not answer.get("error", "").startswith(f"JSON schema, {place}: ") or answer["code"] not in ("invalid", "unsupported")]
    assert not found


def test_schemas_that_nothing_satisfies():
    answers = languages.ask([{"schema": schema} for schema in schemas.EMPTY])
    assert [schema for schema, answer in zip(schemas.EMPTY, answers, strict=True) if answer.get("code") != "invalid"] == []


def test_random_schemas():
    rng, jobs = random.Random(SEED), []
    for i in range(N_RANDOM):
        jobs.append({"schema": schemas.random_root(rng), "seed": i, **WALK})
    found, counts, refused, Judge.endless = [], collections.Counter(), collections.Counter(), 0
    for job, answer in zip(jobs, languages.ask(jobs), strict=True):
        name = json.dumps(job["schema"])
        if "error" in answer:
            place = re.match(r"JSON schema, #([^:]*): ", answer["error"])
            empty = "derives no" in answer["error"] or "derives nothing" in answer["error"]
            words = set(place.group(1).split("/")) if place else set()
            # One that includes itself in place, behind a value that is listed: it has no keyword at fault.
            deep = "schemas for one value of const or enum" in answer["error"]
            if not empty and not deep and not words & schemas.KEYWORDS:
                found.append(f"{name}: {answer['error']}")
            counts["empty" if empty else "refused"] += 1
            if not empty:
                refused[next((word for word in reversed(place.group(1).split("/")) if word in schemas.KEYWORDS), None)] += 1
            continue
        counts["compiled"] += 1
        judge = Judge(job["schema"])
        for text in answer["walks"]:
            counts["texts"] += 1
            if not judge.accepts(text):
                found.append(f"{name}: derived {text}")
        found += [f"{name}: dead end after {text}" for text in answer["dead"]]
    print(dict(counts), "endless", Judge.endless, "refused", dict(refused.most_common()))
    assert not found, f"{len(found)}:\n" + "\n".join(found[:10])
    assert counts["compiled"] > N_RANDOM // 3 and counts["texts"] > counts["compiled"] and Judge.endless < counts["texts"] // 50


def suite_groups():
    files = sorted(SUITE.glob("*.json")) + sorted(SUITE.glob("optional/format/*.json"))
    for file in files:
        for group in json.loads(file.read_text()):
            # octavo's reader refuses U+0000 in strings before any schema is looked at.
            if "\\u0000" not in json.dumps(group["schema"]):
                yield file.stem, group


@pytest.mark.skipif(not SUITE.is_dir(), reason=f"no JSON Schema Test Suite in {SUITE}")
def test_suite():
    groups, jobs = list(suite_groups()), []
    for name, group in groups:
        texts = [json.dumps(test["data"], ensure_ascii=False) for test in group["tests"] if "\\u0000" not in json.dumps(test["data"])]
        jobs.append({"schema": group["schema"], "texts": texts, "seed": 3, **WALK})
    found, table = [], collections.defaultdict(collections.Counter)
    for (name, group), job, answer in zip(groups, jobs, languages.ask(jobs), strict=True):
        row, valid = table[name], [t["valid"] for t in group["tests"] if "\\u0000" not in json.dumps(t["data"])]
        row["schemas"] += 1
        if "derives no" in answer.get("error", ""):
            row["empty"] += 1
            found += [f"{name}, {group['description']}: nothing derived"] * any(valid)
            continue
        if "error" in answer:
            row["refused"] += 1
            words = set(re.match(r"JSON schema, #([^:]*): ", answer["error"]).group(1).split("/"))
            found += [f"{name}, {group['description']}: {answer['error']}"] * (not words & (schemas.KEYWORDS | schemas.REFUSED_KEYWORDS))
            continue
        for text, good, accepted in zip(job["texts"], valid, answer["accepted"], strict=True):
            row["valid" if good else "invalid"] += 1
            row["accepted"] += good and accepted == "1"
            if not good and accepted == "1":
                found.append(f"{name}, {group['description']}: accepted {text}")
        for text in answer["walks"]:
            if not Judge(group["schema"]).accepts(text):
                found.append(f"{name}, {group['description']}: derived {text}")
    table["all"] = sum(table.values(), collections.Counter())
    for name, row in table.items():
        print(f"| {name} | {row['schemas']} | {row['refused']} | {row['empty']} | {row['accepted']} of {row['valid']} | {row['invalid']} |")
    assert not found, f"{len(found)}:\n" + "\n".join(found[:10])
    assert table["all"]["accepted"] > 600
