"""Worst error of what other scripts leave out: counts, mixtures, estimates and terms.

    python benchmarks/other_accuracy.py          writes benchmarks/results/other.md
    python benchmarks/other_accuracy.py --quick  fewer rows, prints only

Needs the extra `benchmarks`. Two minutes of one processor.
"""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import machine
import mpmath as mp
import numpy as np
import parametric_accuracy
from accuracy import Worst, in_digits, in_ulps

import kl_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import oracles  # noqa: E402
import parametric_oracles  # noqa: E402
import test_counts  # noqa: E402
import test_mixtures  # noqa: E402
from oracles import spacing  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"

# Each generator yields a class of rows, and for each of its results what was found, what is
# true and the size of which the error is counted.


def exact(row):
    return [mp.mpf(float(x)) for x in row]


def apart(found, true):
    return abs(mp.mpf(float(found)) - true) if found != true else mp.mpf(0)


def single(function, *stacks):
    """The results of a compiled function, of one row at a time."""
    function = jax.jit(function)
    rows = [function(*(x[i : i + 1] for x in stacks)) for i in range(len(stacks[0]))]
    return np.concatenate(rows)


def positive(rng, shape, dtype, noise):
    """Masses of e^-12 to 1, and others that differ by `noise`."""
    p = np.exp(rng.uniform(-12, 0, shape))
    return p.astype(dtype), (p * (1 + noise * rng.uniform(-1, 1, shape))).astype(dtype)


def counts(dtype, count):
    """The larger of an ULP of KL and eps^2 sqrt(KL) / 5."""
    eps = mp.mpf(float(np.finfo(dtype).eps))
    for outcomes, rows in ((2, 40 * count), (3, 40 * count), (30, 2 * count), (1000, 1)):
        for pseudocount in (0.0, 0.5):
            of = functools.partial(kl_jax.kl_from_counts, pseudocount=pseudocount)
            for c, a in test_counts.histograms(outcomes, rows):
                c, a = c.astype(dtype), a.astype(dtype)
                for f, *row in zip(jax.jit(of)(c, a), c, a, strict=True):
                    true = test_counts.of_counts(*row, pseudocount)[0]
                    size = max(spacing(true, dtype), eps**2 * mp.sqrt(true) / 5)
                    yield f"{outcomes} outcomes", f, true, size
    rng = np.random.default_rng(1)
    c, a = np.exp(rng.uniform(-20, 20, (2, 8 * count, 3))).astype(dtype)
    for f, *row in zip(single(kl_jax.kl_from_counts, c, a), c, a, strict=True):
        true = test_counts.of_counts(*row)[0]
        yield "3 outcomes, e^-20 to e^20, alone", f, true, spacing(true, dtype)


def mixture_logits(dtype, count):
    """An ULP of the larger of the result and 1."""
    rng = np.random.default_rng(2)
    for outcomes, rows in ((9, 4 * count), (1000, 1)):
        for scale in (0.01, 1.0, 20.0):
            logits = rng.normal(size=(rows, 4, outcomes)) * scale
            logits[rng.uniform(size=logits.shape) < 0.1] = -np.inf
            logits, weights = logits.astype(dtype), rng.uniform(size=4).astype(dtype)
            of = lambda z, w=weights: kl_jax.mixture_logits(z, w, axis=1)
            for found, stack in zip(single(of, logits), logits, strict=True):
                for f, true in zip(found, test_mixtures.exact(stack, weights), strict=True):
                    size = spacing(max(1, abs(true)), dtype) if true > -mp.inf else 1
                    yield f"{outcomes} outcomes, logits of size {scale:g}", f, true, size


def mixture_kl_approximation(dtype, count):
    """An ULP of the mean that the docstring names."""
    names = {"reversed": "in another order", "uneven": "5 and 3 components"}
    for kind in (1e-7, 1e-3, 1.0, "reversed", "uneven"):
        label = names.get(kind) or f"differ by {kind:g}"
        stacks = test_mixtures.mixtures_of_normals(kind, 2 * count, dtype)
        found = single(kl_jax.mixture_kl_approximation, *stacks)
        for f, *case in zip(found, *stacks, strict=True):
            true, size = test_mixtures.exact_approximation(*case)
            eps = float(np.finfo(dtype).eps)
            yield label, f, true, eps * size


def mixture_kl_upper_bound(dtype, count):
    """An ULP of the bound."""
    for noise in (1e-2, 1e-4, 1e-6):
        stacks = test_mixtures.that_nearly_agree(noise, 2 * count, dtype)
        found = single(kl_jax.mixture_kl_upper_bound, *stacks)
        for f, *case in zip(found, *stacks, strict=True):
            true = test_mixtures.bound_of_pairs(*case)
            yield f"differ by {noise:g}", f, true, spacing(true, dtype)


def kl_estimate(dtype, count):
    """An ULP of the formula of the rounded d."""
    rng = np.random.default_rng(3)
    formulas = {"k1": lambda d: -d, "k2": lambda d: d * d / 2, "k3": oracles.phi}
    log_p = (rng.normal(size=200 * count) * 5).astype(dtype)
    log_q = log_p + rng.normal(size=log_p.size) * 10 ** rng.uniform(-6, 1, log_p.size)
    log_q = log_q.astype(dtype)
    for estimator, formula in formulas.items():
        of = functools.partial(kl_jax.kl_estimate, estimator=estimator)
        for f, d in zip(jax.jit(of)(log_p, log_q), exact(log_q - log_p), strict=True):
            true = formula(d)
            yield estimator, f, true, spacing(true, dtype)


def logits_from_probs(dtype, count):
    """An ULP of the result."""
    rng = np.random.default_rng(4)
    p = rng.uniform(0, 1, 100 * count)
    classes = {
        "0 to 1": p,
        "next to 1": 1 - p * 10.0 ** -rng.uniform(0, 6, p.size),
        "e^-80 to 1": np.exp(-80 * p),
    }
    for kind, p in classes.items():
        p = p.astype(dtype)
        for f, x in zip(jax.jit(kl_jax.logits_from_probs)(p), exact(p), strict=True):
            yield kind, f, mp.log(x), spacing(mp.log(x), dtype)


def kl_divergence_from_probs(dtype, count):
    """An ULP of the sum of the terms' sizes."""
    rng = np.random.default_rng(5)
    for outcomes, rows in ((2, 8 * count), (32, count), (1000, 1)):
        for noise in (1.0, 1e-3, 1e-6):
            p, q = positive(rng, (rows, outcomes), dtype, noise)
            found = single(kl_jax.kl_divergence_from_probs, p, q)
            for f, x, y in zip(found, p, q, strict=True):
                terms = [oracles.rel_entr(a, b) for a, b in zip(x, y, strict=True)]
                size = spacing(mp.fsum(map(abs, terms)), dtype)
                kind = f"{outcomes} outcomes, differ by {noise:g}"
                yield kind, f, mp.fsum(terms), size


def kl_div(dtype, count):
    """An ULP of the larger of target log target and target input; of log_target, a term."""
    rng = np.random.default_rng(6)
    for log_target in (False, True):
        of = functools.partial(kl_jax.kl_div, reduction="none", log_target=log_target)
        for noise in (1.0, 1e-3, 1e-6):
            p, q = positive(rng, 100 * count, dtype, noise)
            x, t = np.log(q), np.log(p) if log_target else p
            for f, a, b in zip(jax.jit(of)(x, t), exact(x), exact(t), strict=True):
                if log_target:
                    parts = [mp.exp(b) * (b - a)]
                else:
                    parts = [b * mp.log(b), -b * a]
                size = spacing(max(map(abs, parts)), dtype)
                kind = f"{'log_target, ' * log_target}differ by {noise:g}"
                yield kind, f, mp.fsum(parts), size


def topk_outcomes(dtype, count):
    """The 1 - P of what is outside: the error of its logarithm."""
    rng = np.random.default_rng(7)
    shape = 2 * count, 60
    for rest in (1e-2, 1e-4, 1e-6):
        p = rng.exponential(size=shape)
        p = p / p.sum(-1, keepdims=True) * (1 - rest * rng.uniform(1, 3, (len(p), 1)))
        log_p, index = np.log(p).astype(dtype), np.broadcast_to(np.arange(60), shape)
        of = lambda x, i: kl_jax.topk_outcomes(x, i, jnp.zeros((1, 100), dtype))[0]
        for found, row in zip(single(of, log_p, index), log_p, strict=True):
            true = 1 - mp.fsum(map(mp.exp, exact(row)))
            if true > rest:
                yield f"1 - P of {rest:g} and more", found[-1], mp.log(true), 1


def normal_log_variance(dtype, count):
    """An ULP of KL."""
    name = "normal_log_variance"
    function = jax.jit(kl_jax.parametric.normal_log_variance)
    for kind, rows in parametric_accuracy.classes(name, dtype, 4 * count):
        for f, row in zip(function(*np.transpose(rows)), rows, strict=True):
            true = parametric_oracles.kl(name, row)
            yield kind, f, true, spacing(true, dtype)


MEASURED = {
    "kl_from_counts": counts,
    "mixture_logits": mixture_logits,
    "mixture_kl_approximation": mixture_kl_approximation,
    "mixture_kl_upper_bound": mixture_kl_upper_bound,
    "kl_estimate": kl_estimate,
    "logits_from_probs": logits_from_probs,
    "kl_divergence_from_probs": kl_divergence_from_probs,
    "kl_div": kl_div,
    "topk_outcomes": topk_outcomes,
    "normal_log_variance": normal_log_variance,
}


def cells(name, dtype, count):
    """The worst of each class."""
    worst = {}
    with jax.enable_x64(dtype == "float64"), mp.workdps(oracles.DIGITS):
        for kind, found, true, size in MEASURED[name](dtype, count):
            worst.setdefault(kind, Worst())
            wrong = lambda x, true=true, size=size: float(
                abs(mp.mpf(float(x)) - true) / size
            )
            worst[kind].add(found, wrong)
    return worst


def report(quick):
    count = 2 if quick else 25
    yield "# Worst error of counts, mixtures, estimates and terms"
    yield ""
    yield machine.describe("jax", "jaxlib", "numpy", "mpmath")
    yield (
        "Rows of mixtures, of masses and of top k, and all of 1000 outcomes, are alone in "
        "their call, as XLA for CPUs sums few rows in another order than many."
    )
    yield ""
    yield "| function | rows | error in units of | float32 | float64 |"
    yield "|---|---|---|---|---|"
    for name, measured in MEASURED.items():
        form = in_digits if name == "topk_outcomes" else in_ulps
        both = [cells(name, dtype, count) for dtype in ("float32", "float64")]
        for kind, unit in dict.fromkeys((k, measured.__doc__.rstrip(".")) for k in both[0]):
            found = " | ".join(x[kind].cell(form, signed=False) for x in both)
            yield f"| {name} | {kind} | {unit} | {found} |"


def main():
    quick = machine.options(__doc__).parse_args().quick
    text = machine.printed(report(quick))
    if not quick:
        (RESULTS / "other.md").write_text(text)


if __name__ == "__main__":
    main()
