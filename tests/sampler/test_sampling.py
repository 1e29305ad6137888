"""The sampler against its definition in NumPy (float64): tokens draw by draw, their distribution, penalties, logprobs.

Everything is seeded, so a test passes always or never. The built programs are looked for in $OCTAVO_BUILD (default:
build/release).
"""
import math
import os
import pathlib
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = pathlib.Path(os.environ.get("OCTAVO_BUILD", ROOT / "build/release")) / "sample"


def run(logits, **options):
    """[(token, logprob, [(token, logprob), ...]), ...] of tests/tools/sample.c."""
    command = [SAMPLE]
    for name, value in options.items():
        command += ["--" + name.replace("_", "-"), str(value)]
    data = np.asarray(logits, np.float32).tobytes()
    out = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout.decode()
    results = []
    for line in out.splitlines():
        token, logprob, *top = line.split()
        pairs = [(int(t), float(p)) for t, p in (entry.split(":") for entry in top)]
        results.append((int(token), float(logprob), pairs))
    return results


def tokens_of(logits, **options):
    return np.array([token for token, _, _ in run(logits, **options)])


def ids(values):
    return ",".join(map(str, values))


# ---- The definition ----


def philox(counter, key):
    """Philox 4x32-10 after Salmon et al. 2011, on Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        even, odd = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(odd >> 32) ^ c[1] ^ k[0], odd & 0xFFFFFFFF, (even >> 32) ^ c[3] ^ k[1], even & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def uniform(seed, position):
    words = philox((position & 0xFFFFFFFF, position >> 32, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    return ((words[0] << 21) | (words[1] >> 11)) / 2**53


def adjusted(logits, bias=(), repetition=1.0, presence=0.0, frequency=0.0, prompt=(), output=()):
    x = np.asarray(logits, np.float32).astype(np.float64)
    for token, value in bias:
        x[token] += value
    seen = np.zeros(len(x), bool)
    seen[list(prompt)] = True
    seen[list(output)] = True
    x = np.where(seen, np.where(x > 0, x / repetition, x * repetition), x)
    counts = np.bincount(np.array(output, int), minlength=len(x))
    return x - frequency * counts - presence * (counts > 0)


def distribution(x, temperature=1.0, min_p=0.0, top_k=0, top_p=1.0):
    """Probabilities after the filters."""
    x = x / temperature
    p = np.exp(x - x.max())
    if min_p > 0:
        p[p < min_p * p.max()] = 0
    order = np.lexsort((np.arange(len(p)), -p))
    if 0 < top_k < len(p):
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p < 1:
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= top_p]] = 0
    return p / p.sum()


def assert_draws(tokens, p, draws):
    """Each token is where its random number falls; at an edge of two (float32 against float64) either will do."""
    edges = np.cumsum(p)
    differing = 0
    for token, u in zip(tokens, draws, strict=True):
        if token != np.searchsorted(edges, u, side="right"):
            distance = min(abs(u - edges[token]), abs(u - (edges[token] - p[token])))
            assert p[token] > 0 and distance < 2e-6, f"token {token} for u = {u}"
            differing += 1
    assert differing <= 2 + len(tokens) // 500


def chi_square_limit(freedom):
    """The value that chance exceeds once in 100,000 (Wilson and Hilferty's approximation)."""
    z = 4.265
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


def assert_distribution(tokens, p):
    expected = p * len(tokens)
    counts = np.bincount(tokens, minlength=len(p)).astype(float)
    assert counts[p == 0].sum() == 0
    large = expected >= 8
    small = ~large & (p > 0)
    cells = [(counts[i], expected[i]) for i in np.flatnonzero(large)]
    if small.any():
        cells.append((counts[small].sum(), expected[small].sum()))
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    assert statistic < chi_square_limit(max(len(cells) - 1, 1))


def language_like(n, seed):
    """Logits as language models have them: a bulk and some that stand out."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2.5, n)
    chosen = rng.choice(n, min(n, max(4, n // 500)), replace=False)
    logits[chosen] += 6 + rng.exponential(2, len(chosen))
    return logits.astype(np.float32)


SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 1.7},
    {"top_p": 0.9},
    {"top_p": 0.05},
    {"temperature": 2.5, "top_p": 0.97},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 700},
    {"top_k": 10**6},
    {"min_p": 0.05},
    {"min_p": 1e-6},
    {"min_p": 0.99},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1.2, "top_k": 100, "top_p": 0.5},
    {"top_p": 0.8, "min_p": 0.01},
]


# ---- Tests ----


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 1000, 49152])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draw_by_draw(n, settings):
    logits = language_like(n, n)
    settings = {"temperature": 1.0, **settings}
    seed = 123456789012345
    tokens = tokens_of(logits, draws=1500, seed=seed, **settings)
    draws = [uniform(seed + i, 0) for i in range(1500)]
    assert_draws(tokens, distribution(logits.astype(float), **settings), draws)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_chi_square(settings):
    logits = language_like(2000, 3)
    settings = {"temperature": 1.0, **settings}
    p = distribution(logits.astype(float), **settings)
    assert_distribution(tokens_of(logits, draws=40_000, seed=11, **settings), p)
    assert_distribution(tokens_of(logits, draws=40_000, seed=2**63 + 5, by_position=1, **settings), p)


def test_positions_follow_the_counter():
    logits = language_like(300, 4)
    seed = 2**64 - 3
    tokens = tokens_of(logits, draws=2000, seed=seed, by_position=1, temperature=1)
    assert_draws(tokens, distribution(logits.astype(float)), [uniform(seed, i) for i in range(2000)])


def test_neighbours_are_independent():
    """Pairs of draws at neighbouring positions, and at neighbouring seeds."""
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.15, 0.25]))
    p = distribution(logits)
    for options in ({"by_position": 1}, {}):
        tokens = tokens_of(logits, draws=60_000, seed=77, temperature=1, **options)
        assert_distribution(tokens[:-1] * 5 + tokens[1:], np.outer(p, p).ravel())


@pytest.mark.parametrize("case", range(12))
def test_bias_and_penalties(case):
    rng = np.random.default_rng(100 + case)
    n = 500
    logits = rng.normal(0, 2, n).astype(np.float32)
    prompt = rng.integers(0, n, rng.integers(0, 400)).tolist()
    output = rng.integers(0, n // 4, rng.integers(0, 300)).tolist()
    bias = [(int(t), float(np.float32(v))) for t, v in zip(rng.choice(n, 20), rng.normal(0, 4, 20), strict=True)]
    options = {
        "repetition": [1.0, 1.3, 0.8][case % 3],
        "presence": [0.0, 0.7, -0.5][case // 3 % 3],
        "frequency": [0.0, 0.2, -0.1, 1.5][case % 4],
    }
    # Numbers reach the tool as float32.
    exact = {name: float(np.float32(value)) for name, value in options.items()}
    x = adjusted(logits, bias=bias, prompt=prompt, output=output, **exact)
    command = {"prompt": ids(prompt), "output": ids(output), **options}
    command["bias"] = ",".join(f"{t}:{v!r}" for t, v in bias)
    assert tokens_of(logits, **command)[0] == np.argmax(x)
    settings = {"temperature": 0.9, "top_p": 0.95}
    tokens = tokens_of(logits, draws=2000, seed=case, **command, **settings)
    draws = [uniform(case + i, len(output)) for i in range(2000)]
    assert_draws(tokens, distribution(x, **settings), draws)


def masked(x, allowed):
    y = np.full(len(x), -np.inf)
    y[allowed] = x[allowed]
    return y


@pytest.mark.parametrize("n", [5, 65, 5000])
@pytest.mark.parametrize("share", [0.002, 0.1, 0.95])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_mask(settings, share, n):
    """The draw is one of a distribution in which there is nothing but the tokens allowed."""
    rng = np.random.default_rng(n)
    logits = language_like(n, n)
    allowed = np.sort(rng.choice(n, max(1, int(share * n)), replace=False))
    settings = {"temperature": 1.0, **settings}
    tokens = tokens_of(logits, draws=500, seed=5, allowed=ids(allowed), **settings)
    p = distribution(masked(logits.astype(float), allowed), **settings)
    assert_draws(tokens, p, [uniform(5 + i, 0) for i in range(500)])
    assert tokens_of(logits, allowed=ids(allowed))[0] == allowed[np.argmax(logits[allowed])]


def test_mask_after_bias_and_penalties():
    """No bias brings a masked token back; those that are allowed keep theirs."""
    n = 700
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 2, n).astype(np.float32)
    allowed = np.arange(3, n, 7)
    output = rng.integers(0, n, 200).tolist()
    bias = [(4, 100.0), (10, 3.0), (17, -100.0)]
    x = adjusted(logits, bias=bias, frequency=0.5, output=output)
    options = {"allowed": ids(allowed), "bias": "4:100,10:3,17:-100", "frequency": 0.5, "output": ids(output)}
    assert tokens_of(logits, **options)[0] == np.argmax(masked(x, allowed))
    tokens = tokens_of(logits, draws=2000, temperature=1, **options)
    assert set(tokens) <= set(allowed.tolist())
    assert_draws(tokens, distribution(masked(x, allowed)), [uniform(i, len(output)) for i in range(2000)])


@pytest.mark.parametrize("temperature", [0, 1])
def test_logprobs_do_not_know_of_masks(temperature):
    logits = language_like(3000, 21)
    reference = logits.astype(float) - np.log(np.exp(logits.astype(float)).sum())
    order = np.argsort(-logits)[:5]
    allowed = [11, 600, 2999]
    for token, logprob, top in run(logits, draws=20, temperature=temperature, allowed=ids(allowed), logprobs=5):
        assert token in allowed
        assert logprob == pytest.approx(reference[token], abs=1e-5)
        assert [t for t, _ in top] == order.tolist()
        assert [p for _, p in top] == pytest.approx(reference[order], abs=1e-5)


@pytest.mark.parametrize("temperature", [0, 1])
def test_mask_of_impossible_tokens(temperature):
    """A mask is kept to even where the logits leave nothing of it."""
    nan, inf = np.nan, np.inf
    assert set(tokens_of([5, nan, -inf, 1], draws=50, temperature=temperature, allowed="1,2")) == {1}
    assert set(tokens_of([5, nan, -inf, 1], draws=50, temperature=temperature, allowed="1,2,3")) == {3}


def test_bias_bans_and_forces():
    logits = language_like(1000, 8)
    best = int(np.argmax(logits))
    tokens = tokens_of(logits, draws=2000, temperature=1, bias=f"{best}:-100")
    assert best not in tokens
    assert set(tokens_of(logits, draws=2000, temperature=1, bias="17:100")) == {17}
    assert tokens_of(logits, bias=f"{best}:-60,{best}:-60")[0] == np.argsort(-logits)[1]  # biases of one token add up


@pytest.mark.parametrize("n", [0, 1, 5, 20])
def test_logprobs(n):
    """Of the distribution as the model gave it: bias, penalties, temperature and filters change nothing."""
    logits = language_like(49152, 9)
    reference = logits.astype(float) - logits.max()
    reference -= np.log(np.exp(reference).sum())
    order = np.lexsort((np.arange(len(logits)), -logits))[:n]
    options = {"logprobs": n, "temperature": 0.7, "top_p": 0.9, "frequency": 0.5, "output": "3,4,3", "bias": "9:5,11:-2"}
    for token, logprob, top in run(logits, draws=50, **options):
        assert logprob == pytest.approx(reference[token], abs=1e-5)
        assert [t for t, _ in top] == order.tolist()
        assert [p for _, p in top] == pytest.approx(reference[order], abs=1e-5)
    plain = tokens_of(logits, draws=50, **{k: v for k, v in options.items() if k != "logprobs"})
    assert (plain == [token for token, _, _ in run(logits, draws=50, **options)]).all()


def test_score():
    logits = language_like(5000, 10)
    reference = logits.astype(float) - np.log(np.exp(logits.astype(float)).sum())
    for token in (0, 4999, int(np.argmax(logits))):
        (scored, logprob, top), = run(logits, score=token, logprobs=3)
        assert scored == token
        assert logprob == pytest.approx(reference[token], abs=1e-5)
        assert [t for t, _ in top] == np.argsort(-logits)[:3].tolist()


def test_ties():
    """Of equals the lower id is the better: greedy, top_k, top_p, alternatives."""
    logits = np.zeros(1000, np.float32)
    assert tokens_of(logits)[0] == 0
    logits[[990, 70, 500]] = 3
    assert tokens_of(logits)[0] == 70
    assert [t for t, _ in run(logits, logprobs=5)[0][2]] == [70, 500, 990, 0, 1]
    assert set(tokens_of(logits, draws=300, temperature=1, top_k=2)) == {70, 500}
    assert set(tokens_of(logits, draws=2000, temperature=1, top_k=5)) == {70, 500, 990, 0, 1}
    flat = np.zeros(1000, np.float32)
    assert set(tokens_of(flat, draws=3000, temperature=1, top_p=0.0995)) == set(range(100))


def test_values_that_are_not_numbers():
    nan, inf = np.nan, np.inf
    row = np.array([nan, 1, 2, nan, -inf, 0], np.float32)
    for options in ({}, {"top_k": 5}, {"top_p": 0.999}, {"min_p": 1e-9}):
        tokens = tokens_of(row, draws=3000, temperature=1, **options)
        assert set(tokens) == {1, 2, 5}
    clean = np.array([-inf, 1, 2, -inf, -inf, 0])
    p = np.exp(clean) / np.exp(clean).sum()
    assert_distribution(tokens_of(row, draws=3000, temperature=1), p)
    (token, logprob, top), = run(row, logprobs=20)
    assert token == 2 and logprob == pytest.approx(math.log(p[2]), abs=1e-6)
    assert [t for t, _ in top] == [2, 1, 5]  # the impossible are no alternatives
    assert run(row, score=0, logprobs=1)[0][1] == -inf
    assert set(tokens_of([0, inf, 5, inf], draws=200, temperature=1)) == {1, 3}
    for options in ({}, {"temperature": 1}, {"temperature": 1, "top_k": 2}, {"temperature": 1, "top_p": 0.5}):
        (token, logprob, top), = run([nan, -inf, nan], logprobs=2, **options)
        assert token == 0 and logprob == -inf and top == []
    huge = np.array([3e38, -3e38, 3e38, 0], np.float32)
    assert set(tokens_of(huge, draws=200, temperature=0.01, top_p=0.9)) == {0, 2}
    assert set(tokens_of(huge, draws=200, temperature=1, top_k=3)) == {0, 2}


def test_extreme_settings():
    logits = language_like(3000, 12)
    best = np.argmax(logits)
    assert set(tokens_of(logits, draws=100, temperature=1e-6)) == {best}
    assert set(tokens_of(logits, draws=100, temperature=1e-4)) == {best}
    assert set(tokens_of(logits, draws=100, temperature=1, top_p=1e-9)) == {best}
    assert set(tokens_of(logits, draws=100, temperature=1, min_p=1)) == {best}
    p = distribution(logits.astype(float), temperature=1e4)
    assert_distribution(tokens_of(logits, draws=40_000, temperature=1e4), p)
