#!/usr/bin/env python3
"""The table `stages` of kernels/kv_codec.c, measured anew on unit Gaussians.

    tests/tools/code-units.py [--words N] [--check]

For every history of bits: the unit with the least squared error after the stages before it, that error
(distortion), and the gain, 1 / mean of y * yhat. --check compares with the table in the source and fails
where a distortion is off by more than 3 % and 1e-5, or a gain by more than 1 %.
"""

import argparse
import itertools
import pathlib
import re
import sys

import numpy as np

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "kernels/kv_codec.c"
LEVELS = np.array(
    [[2 * (5 * (c >> 1) + 3 * (c & 1) + 4 * (p & 1) + 3 * (1 - (p >> 1))) - 15 for c in range(4)] for p in range(4)]
)


def trellis(x):
    """Levels [words][16] of the tail-biting code: the least sum of (x - 4 level)^2 over each word."""
    x = np.ascontiguousarray(x.T.astype(np.int32))
    n_steps, n_words = x.shape
    best, result = np.full(n_words, np.iinfo(np.int32).max), np.empty((n_steps, n_words), np.int8)
    costs = {level: 2 * level * level - x * level for level in np.unique(LEVELS)}
    for start in range(4):
        sums = [costs[LEVELS[start, code]][0] for code in range(4)]
        before = np.empty((n_steps, 4, n_words), np.int8)
        before[0] = start
        for step in range(1, n_steps):
            following = []
            for code in range(4):
                paths = np.stack([sums[previous] + costs[LEVELS[previous, code]][step] for previous in range(4)])
                before[step, code] = paths.argmin(0)
                following.append(paths.min(0))
            sums = following
        levels = np.empty((n_steps, n_words), np.int8)
        code = np.full(n_words, start)
        for step in range(n_steps - 1, -1, -1):
            previous = np.take_along_axis(before[step], code[None], 0)[0].astype(int)
            levels[step] = LEVELS[previous, code]
            code = previous
        better = sums[start] < best
        best = np.where(better, sums[start], best)
        result[:, better] = levels[:, better]
    return result.T


def coded(y, bits, unit):
    """unit * level of what one stage makes of y [words][16]."""
    e = y / unit
    if bits == 1:
        return np.where(e >= 0, 8, -8) * unit
    if bits == 4:
        return (2 * np.clip(np.floor(e / 2), -8, 7) + 1) * unit
    return trellis(np.clip(np.rint(4 * e), -96, 96)) * unit


def unit_search(y, bits):
    """Golden section over the unit; the error has one minimum."""
    guess = y.std() * {1: 0.1, 2: 0.14, 4: 0.1676}[bits]
    low, high, ratio = guess * 0.5, guess * 2, (5**0.5 - 1) / 2

    def error(unit):
        return ((y - coded(y, bits, unit)) ** 2).mean()

    a, b = high - ratio * (high - low), low + ratio * (high - low)
    error_a, error_b = error(a), error(b)
    for _ in range(12):
        if error_a < error_b:
            high, b, error_b = b, a, error_a
            a = high - ratio * (high - low)
            error_a = error(a)
        else:
            low, a, error_a = a, b, error_b
            b = low + ratio * (high - low)
            error_b = error(b)
    return (low + high) / 2


class Walk:
    """Histories share what their first stages left."""

    def __init__(self, n_words):
        y = np.random.default_rng(1).standard_normal((n_words, 16))
        self.y = y / np.sqrt((y**2).mean())
        self.left = {(): self.y}
        self.units = {}

    def stage(self, history):
        if history not in self.left:
            if history[:-1]:
                self.stage(history[:-1])
            residual = self.left[history[:-1]]
            self.units[history] = unit_search(residual[: len(residual) // 4], history[-1])
            self.left[history] = residual - coded(residual, history[-1], self.units[history])
        residual = self.left[history]
        return self.units[history], (residual**2).mean(), 1 / (self.y * (self.y - residual)).mean()


def wide_pair(y):
    """Two stages of 4 bits of which the first is never read alone."""
    best = None
    for first in np.linspace(0.2, 0.28, 17):
        residual = y - coded(y, 4, first)
        second = unit_search(residual, 4)
        error = ((residual - coded(residual, 4, second)) ** 2).mean()
        if best is None or error < best[0]:
            best = error, first, second
    _, first, second = best
    one = coded(y, 4, first)
    both = one + coded(y - one, 4, second)
    return [(unit, ((y - yhat) ** 2).mean(), 1 / (y * yhat).mean()) for unit, yhat in ((first, one), (second, both))]


def source_rows():
    """{history: (unit, distortion, gain)}; the wide pair under its names."""
    text = SOURCE.read_text()
    rows = {}
    number = r"([0-9.]+)f"
    for match in re.finditer(r"(wide_\w+ = )?\{\{([0-9, ]+)\}, " + ", ".join([number] * 3) + r"\}", text):
        key = match[1][:-3] if match[1] else tuple(map(int, match[2].split(",")))
        rows[key] = tuple(float(match[i]) for i in (3, 4, 5))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=20000)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    walk = Walk(options.words)
    histories = [h for n in (1, 2) for h in itertools.product((1, 2, 4), repeat=n)]
    histories += [(*h, last) for h in itertools.product((1, 2, 4), (1, 2)) for last in (1, 2)]
    rows = {history: walk.stage(history) for history in histories}
    rows["wide_first"], rows["wide_both"] = wide_pair(walk.y)
    source, failed = source_rows() if options.check else {}, False
    for history, (unit, distortion, gain) in rows.items():
        name = history if isinstance(history, str) else "{" + ", ".join(map(str, history)) + "}"
        line = f"{name:12} {unit:.5f} {distortion:.6f} {gain:.4f}"
        if options.check:
            _, wanted, wanted_gain = source.get(history, (0, 0, 0))
            good = abs(distortion - wanted) <= 0.03 * distortion + 1e-5 and abs(gain - wanted_gain) <= 0.01
            failed |= not good
            line += f"   source {source.get(history)}" + ("" if good else "   DIFFERS")
        print(line, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
