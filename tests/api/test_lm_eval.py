"""lm-eval (EleutherAI's harness) against the server gives what `octavo eval` gives: log-likelihoods of multiple choice
through local-completions, in f16 and in 2 bits; and answers through local-chat-completions.

lm-eval is too large to be brought for this alone: OCTAVO_LM_EVAL names its program, else it is looked for on the path.
    python -m venv lm-eval && lm-eval/bin/pip install 'lm-eval[api]'
    OCTAVO_LM_EVAL=lm-eval/bin/lm_eval .venv/bin/python -m pytest tests/api/test_lm_eval.py"""
import json
import os
import shutil
import subprocess

import pytest

from conftest import BINARY, ENVIRONMENT, MODEL, NAME, PATIENCE_S, ROOT, SANITIZED, Server

LM_EVAL = os.environ.get("OCTAVO_LM_EVAL") or shutil.which("lm_eval")
DATA = ROOT / "tests/data/choices.jsonl"
SHOTS, N_ASKED = 8, 40  # with --kv-recent 0 the first block, about half of what a question sees, is read at two bits

pytestmark = [
    pytest.mark.skipif(LM_EVAL is None, reason="lm-eval is not installed; name its program in OCTAVO_LM_EVAL"),
    pytest.mark.skipif(SANITIZED, reason="tokens of a random model are no text")]

CHOICES = r"""
task: octavo_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/test.jsonl, shots: FOLDER/shots.jsonl}}
test_split: test
fewshot_split: shots
fewshot_config: {sampler: first_n}
num_fewshot: SHOTS
output_type: multiple_choice
doc_to_text: "{% if question %}Question: {{question}}\nAnswer:{% else %}{{context}}{% endif %}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ANSWERS = r"""
task: octavo_answers
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}} Is it {{choices[0]}}?"
doc_to_target: "{{'yes' if answer == 0 else 'no'}}"
generation_kwargs: {until: ["\n\n"], max_gen_toks: 24, temperature: 0.0, do_sample: false, guided_choice: ["yes", "no"]}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    lines = DATA.read_text().splitlines(keepends=True)
    (folder / "shots.jsonl").write_text("".join(lines[:SHOTS]))
    (folder / "test.jsonl").write_text("".join(lines[SHOTS:SHOTS + N_ASKED]))
    (folder / "questions.jsonl").write_text("".join([line for line in lines if '"question"' in line][:12]))
    for name, text in ("choices", CHOICES), ("answers", ANSWERS):
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)).replace("SHOTS", str(SHOTS)))
    return folder


def lm_eval(folder, out, task, *arguments):
    """(results, samples in the order of the file)"""
    done = subprocess.run([LM_EVAL, *arguments, "--tasks", task, "--include_path", folder, "--output_path", out,
                           "--log_samples"], capture_output=True, text=True, timeout=10 * PATIENCE_S,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home"),
                               "OPENAI_API_KEY": "none"})
    assert done.returncode == 0, done.stderr[-8000:]
    [results], [samples] = out.rglob("results_*.json"), out.rglob("samples_*.jsonl")
    samples = [json.loads(line) for line in samples.read_text().splitlines()]
    return json.loads(results.read_text())["results"][task], sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize("kv_format", ["f16", "o2"])
def test_choices(folder, tmp_path, kv_format):
    options = ["--kv-format", kv_format, "--kv-recent", "0"]
    details = tmp_path / "details"
    done = subprocess.run([BINARY, "eval", MODEL, "--task", "choices", "--data", DATA, "--shots", str(SHOTS),
                           "--limit", str(N_ASKED), *options, "--json", "--details", details],
                          capture_output=True, text=True, timeout=10 * PATIENCE_S, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    ours = json.loads(done.stdout)
    mine = [json.loads(line) for line in details.read_text().splitlines()][1::2]
    assert ours["problems"] == len(mine) == N_ASKED and all(d["format"] == kv_format for d in mine)
    server = Server(*options)
    results, theirs = lm_eval(folder, tmp_path / "out", "octavo_choices", "--model", "local-completions", "--model_args",
                              f"model={NAME},base_url={server.url}/v1/completions,tokenizer_backend=remote,num_concurrent=2")
    server.stop()
    assert len(theirs) == N_ASKED
    for d, sample in zip(mine, theirs):
        logprobs = [float(logprob) for logprob, _ in sample["filtered_resps"]]
        assert logprobs == pytest.approx(d["logprobs"], abs=1e-4)
        assert max(range(len(logprobs)), key=logprobs.__getitem__) == d["answer"] and sample["target"] in (d["expected"], str(d["expected"]))
        assert sample["acc"] == (d["answer"] == d["expected"]) and sample["acc_norm"] == (d["answer_norm"] == d["expected"])
    print(kv_format, results, ours, "largest difference",
          max(abs(float(a) - b) for d, s in zip(mine, theirs) for (a, _), b in zip(s["filtered_resps"], d["logprobs"])))
    assert results["acc,none"] == pytest.approx(ours["accuracy"], abs=1e-5)
    assert results["acc_norm,none"] == pytest.approx(ours["accuracy_norm"], abs=1e-5)
    assert (kv_format == "f16") == (ours["bits"] > 16)


def test_answers(folder, tmp_path):
    """Each answer, held to yes or no, is the one that the same chat gets by itself; they are counted as they are."""
    server = Server("--kv-format", "o2")
    results, samples = lm_eval(folder, tmp_path / "out", "octavo_answers", "--model", "local-chat-completions",
                               "--apply_chat_template", "--model_args",
                               f"model={NAME},base_url={server.url}/v1/chat/completions,num_concurrent=3")
    right = 0
    for sample in samples:
        messages = [{"role": "user", "content": "{question} Is it {choices[0]}?".format(**sample["doc"])}]
        reply = server.post("/v1/chat/completions", messages=messages, temperature=0, max_tokens=24, stop=["\n\n"],
                            guided_choice=["yes", "no"])
        [[text]] = sample["resps"]
        assert text == reply.json()["choices"][0]["message"]["content"]
        assert text in ("yes", "no")
        right += text == sample["target"]
    server.stop()
    print(results, right)
    assert len(samples) == 12 and 0 < right and results["exact_match,none"] == pytest.approx(right / 12, abs=1e-5)
