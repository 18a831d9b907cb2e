"""Worst error in ULP of the closed forms between two families, and of torch's.

    python benchmarks/cross_accuracy.py          writes results/cross.md
    python benchmarks/cross_accuracy.py --quick  fewer points, prints only

Needs the `test` extra; torch is measured where it is installed. In float32: the bounds of
float64 are in tests/test_cross.py. Two minutes of one processor.
"""

import pathlib
import sys

import jax
import machine
import numpy as np
from accuracy import Worst, in_digits, in_ulps

from kl_jax.parametric import cross

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import cross_grid  # noqa: E402
import cross_oracles  # noqa: E402
import oracles  # noqa: E402
import programs  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


def classes(name, dtype, count):
    """(class, rows of parameters), without those of which KL overflows."""
    rng = np.random.default_rng(list(cross_grid.PAIRS).index(name))
    makers = {
        "everyday": lambda: cross_grid.everyday(name, rng),
        "nearest": lambda: cross_grid.nearest(name, 0, rng, cross_grid.EVERYDAY),
        "differ by 1e-4": lambda: cross_grid.nearest(name, 1e-4, rng, cross_grid.EVERYDAY),
        "1e4 to 1e6, nearest": lambda: cross_grid.nearest(name, 0, rng, (1e4, 1e6)),
        "any, 1e-3 to 1e6": lambda: cross_grid.extreme(name, rng),
    }
    for kind, make in makers.items():
        rows = [tuple(np.asarray(make(), dtype).tolist()) for _ in range(count)]
        truth = [cross_oracles.kl(*cross_grid.PAIRS[name], x, of_p(name)) for x in rows]
        yield kind, [pair for pair in zip(rows, truth, strict=True) if pair[1] < 1e30]


def of_p(name):
    return cross_grid.of_p(name)


def in_torch(name):
    """KL of two of torch's distributions, of all parameters of both."""
    import torch

    p, q = (title(family) for family in cross_grid.PAIRS[name])
    n = of_p(name)

    def function(*columns):
        columns = [torch.tensor(x) for x in columns]
        d = torch.distributions
        make = lambda family, x: getattr(d, family)(*x, validate_args=False)
        return d.kl_divergence(make(p, columns[:n]), make(q, columns[n:])).numpy()

    return function


def title(family):
    return "".join(word.capitalize() for word in family.split("_"))


def worst_of(found, truth, dtype):
    worst = Worst()
    for x, true in zip(found, truth, strict=True):
        worst.add(x, lambda x, true=true: oracles.ulps(x, true, dtype))
    return worst


def steepest(name, slopes, rows, truth):
    """The largest error of a derivative, relative to the largest one, or to a larger KL."""
    worst = Worst()
    for k, (row, true) in enumerate(zip(rows, truth, strict=True)):
        unit = cross_grid.units(name, row)
        exact = cross_oracles.gradient(*cross_grid.PAIRS[name], row, of_p(name), unit)
        found = [float(slopes[i][k]) * u for i, u in enumerate(unit) if u is not None]
        size = max(*map(abs, exact), float(true)) or 1.0
        error = max(abs(x - y) for x, y in zip(found, exact, strict=True)) / size
        worst.add(error, lambda x: x)
    return worst


def table(dtype, count):
    torch = [in_torch] if machine.installed("torch") else []
    heads = ["kl_jax", *(["torch"] * len(torch)), "kl_jax, gradient"]
    yield f"| {dtype} | p and q | least KL | " + " | ".join(heads) + " |"
    yield "|---|---|---|" + "---|" * len(heads)
    for name in cross_grid.PAIRS:
        both = jax.jit(programs.of_rows(getattr(cross, name)))
        for kind, pairs in classes(name, dtype, count):
            rows, truth = zip(*pairs, strict=True)
            columns = [np.asarray(x, dtype) for x in zip(*rows, strict=True)]
            padded = [np.resize(x, count) for x in columns]
            values, slopes = both(*padded)
            cells = [
                worst_of(np.asarray(values)[: len(rows)].tolist(), truth, dtype).cell(
                    in_ulps
                )
            ]
            for library in torch:
                found = library(name)(*columns).tolist()
                cells.append(worst_of(found, truth, dtype).cell(in_ulps))
            slopes = [np.asarray(x) for x in slopes]
            cells.append(steepest(name, slopes, rows, truth).cell(in_digits, signed=False))
            least = f"{float(min(truth)):.2g}"
            yield f"| {name} | {kind} | {least} | " + " | ".join(cells) + " |"


def report(quick):
    count = 10 if quick else 30
    yield "# Worst error in ULP of closed forms between two families"
    yield ""
    yield machine.describe("jax", "jaxlib", "numpy", "mpmath", "torch")
    yield (
        f"{count} pairs a class, without those of which KL is above 1e30. Everyday: p is "
        "log-uniform, 0.1 to 100, and q is near the member of its family of the same mean "
        "and standard deviation, by factors of up to e^2; nearest: it is that member. "
        f"Gradient: {steepest.__doc__[0].lower()}{steepest.__doc__[1:]}"
    )
    yield ""
    yield from table("float32", count)


def main():
    quick = machine.options(__doc__).parse_args().quick
    text = machine.printed(report(quick))
    if not quick:
        (RESULTS / "cross.md").write_text(text)


if __name__ == "__main__":
    main()
