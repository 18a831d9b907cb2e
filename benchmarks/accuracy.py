"""Worst error in ULP of kl_jax and of what people use, against exact values.

    python benchmarks/accuracy.py          writes benchmarks/results/accuracy.{md,svg}
    python benchmarks/accuracy.py --quick  fewer points and noise levels, prints only

Needs the `test` extra, matplotlib, and python-flint for the exact values of long rows,
which a sample is compared with mpmath for; torch is measured where it is installed.
About 20 minutes on two idle cores, --quick two and a half.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import pathlib
import sys
import warnings

import exact
import jax
import jax.numpy as jnp
import jax.scipy.special
import machine
import mpmath as mp
import numpy as np
import optax
import scipy.special

import kl_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import oracles  # noqa: E402
import registry  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"

# --- inputs ---------------------------------------------------------------------


def pairs(dtype, count):
    """(class, p, q) of positive floats, by how far apart they are."""
    rng = np.random.default_rng(0)
    digits = 7 if dtype == "float32" else 15
    for name, decades in (
        ("1e-3 and less", range(3, digits + 1)),
        ("0.01 to 0.1", (1, 2)),
    ):
        p, q = [], []
        for k in decades:
            x = np.exp(rng.uniform(-12, 2, count // len(decades))).astype(dtype)
            noise = rng.uniform(-1, 1, x.shape) * 10.0**-k
            p.append(x)
            q.append((x * (1 + noise)).astype(dtype))
        yield name, np.concatenate(p), np.concatenate(q)
    x = rng.uniform(1, 2, count).astype(dtype)
    ratio = np.exp(rng.uniform(np.log(0.1), np.log(10), count))
    yield "ratio 1/10 to 10", x, (x * ratio).astype(dtype)
    top = 80 if dtype == "float32" else 700
    p, q = np.exp(rng.uniform(-top, top, (2, count))).astype(dtype)
    yield "any magnitude", p, q


# Rows of each kind at each noise level, by the number of outcomes.
SIZES = {2: 120, 8: 60, 32: 40, 256: 16, 1000: 8, 32000: 1, 131072: 1}
QUICK = {2: 40, 32: 10, 1000: 2, 131072: 1}

# The logits of p, and what is added to them after q's are made.
KINDS = {
    "flat": lambda rng, shape: rng.normal(size=shape) * 0.01,
    "normal": lambda rng, shape: rng.normal(size=shape),
    "peaked": lambda rng, shape: rng.normal(size=shape) * 20,
    "Zipf": lambda rng, shape: rng.permuted(
        np.broadcast_to(-np.log(np.arange(1.0, shape[-1] + 1)), shape), axis=-1
    ),
    "offset 1e3": lambda rng, shape: rng.normal(size=shape),
    "offset 1e4": lambda rng, shape: rng.normal(size=shape),
    "masked": lambda rng, shape: rng.normal(size=shape),
    "p masked": lambda rng, shape: rng.normal(size=shape),
}
OFFSETS = {"offset 1e3": 1e3, "offset 1e4": 1e4}


def one_mode(rng, shape):
    """Beside a mode of up to e^20, each of many small terms is rounded in a chain."""
    a = rng.normal(size=shape)
    a[:, 0] += rng.uniform(0, 20, shape[0])
    return a


# Of rows alone, where such chains were: 24 rows of it show 8 to 11 ULP of them, and 201
# rows of each kind above at most 7.4.
ALONE_KINDS = {**KINDS, "one mode": one_mode}


def logits(kind, noise, shape, dtype):
    """Logits of p and of q, which differ by `noise` and then are rounded."""
    seed = [list(ALONE_KINDS).index(kind), *shape, round(-np.log10(noise))]
    rng = np.random.default_rng(seed)
    a = ALONE_KINDS[kind](rng, shape)
    b = a + rng.normal(size=shape) * noise
    if "masked" in kind:
        gone = rng.uniform(size=shape) < rng.uniform(0, 1, (shape[0], 1))
        gone[np.arange(shape[0]), rng.integers(shape[-1], size=shape[0])] = False
        a = np.where(gone, -np.inf, a)
        b = b if kind == "p masked" else np.where(gone, -np.inf, b)
    return (a + OFFSETS.get(kind, 0)).astype(dtype), b.astype(dtype)


def grid(dtype, quick):
    """(noise level, its batches): each a number of outcomes, kinds, logits of p and q."""
    digits = {"float32": range(8), "float64": range(0, 15, 2)}[dtype]
    if quick:
        digits = {"float32": (0, 3, 7), "float64": (0, 14)}[dtype]
    for k in digits:
        batches = []
        for size, count in (QUICK if quick else SIZES).items():
            each = [logits(kind, 10.0**-k, (count, size), dtype) for kind in KINDS]
            a, b = (np.concatenate(x) for x in zip(*each, strict=True))
            batches.append((size, np.repeat(list(KINDS), count), a, b))
        yield k, batches


def level(k):
    return f"1e-{k}" if k else "1"


# Of the rows that are measured alone: the noise levels, the rows of each kind at each of
# them, and what is measured, by the number of outcomes. XLA for CPUs sums one to three rows
# in another order than many, which once cost 15 ULP that no batch of rows showed. Each
# batch is a program that takes 2 s to compile, so the other divergences are measured at
# two lengths, one of them odd.
ALONE_NOISE = {"float32": (0, 3, 6), "float64": (0, 6, 12)}
ALONE_COUNT = {"float32": 67, "float64": 34}
ALONE_QUICK_COUNT = 4
OTHERS = [name for name, row in registry.DIVERGENCES.items() if row.label]
ALONE = {509: ["kl"], 1000: ["kl", *OTHERS], 1024: ["kl"], 2047: ["kl", *OTHERS]}
ALONE_QUICK = {
    "float32": {2047: ["kl", "jeffreys", "jensen_shannon", "renyi 0.3"]},
    "float64": {2047: ["kl"]},
}


def rows_alone(dtype, size, count):
    """Logits of p and of q, and what each row is: `count` of each kind and noise level."""
    each, names = [], []
    for kind in ALONE_KINDS:
        for k in ALONE_NOISE[dtype]:
            each.append(logits(kind, 10.0**-k, (count, size), dtype))
            names += [f"{kind}, noise {level(k)}, [{row}]" for row in range(count)]
    a, b = (np.concatenate(x) for x in zip(*each, strict=True))
    return a, b, names


# Below, terms underflow. kl_divergence states its error from here on.
FLOOR = {"float32": 2.0**-90, "float64": 2.0**-960}

# --- what is measured ------------------------------------------------------------


def optax_kl(a, b):
    return optax.losses.kl_divergence(jax.nn.log_softmax(b), jax.nn.softmax(a))


def tfp_kl(a, b):
    """As TensorFlow Probability's Categorical, except that p = 0 is no term."""
    p, log_p, log_q = jax.nn.softmax(a), jax.nn.log_softmax(a), jax.nn.log_softmax(b)
    return jnp.sum(jnp.where(p == 0, 0, p * (log_p - log_q)), -1)


def scipy_kl(a, b):
    p, q = scipy.special.softmax(a, -1), scipy.special.softmax(b, -1)
    return scipy.special.rel_entr(p, q).sum(-1)


def torch_kl(a, b):
    import torch

    a, b = torch.tensor(a), torch.tensor(b)
    p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    kl = torch.nn.functional.kl_div
    return kl(log_q, p, reduction="none", log_target=True).sum(-1).numpy()


def from_logits():
    functions = {
        "kl_jax": jax.jit(kl_jax.kl_divergence),
        "optax": jax.jit(optax_kl),
        "scipy": scipy_kl,
        "torch": torch_kl,
        "tfp-style": jax.jit(tfp_kl),
    }
    if not machine.installed("torch"):
        del functions["torch"]
    return functions


# --- errors ---------------------------------------------------------------------


class Worst:
    """The largest error, and the number of results that are negative, or inf or nan
    where the true value is not.
    """

    def __init__(self):
        self.error = 0.0
        self.negative = self.inf = self.nan = 0

    def add(self, found, error=None):
        """`error`, a function of `found`, where its size counts."""
        self.nan += int(np.isnan(found))
        self.negative += int(found < 0)
        if error is None or np.isnan(found):
            return
        size = error(found)
        if size == np.inf:
            self.inf += 1
        else:
            self.error = max(self.error, size)

    def cell(self, form, signed=True):
        notes = [f"{self.negative} < 0"] if signed and self.negative else []
        notes += [f"{self.inf} inf"] if self.inf else []
        notes += [f"{self.nan} nan"] if self.nan else []
        text = form(self.error)
        return f"{text} ({', '.join(notes)})" if notes else text


def in_ulps(error):
    if error < 1000:
        return f"{error:.1f}"
    return power(f"{error:.0e}")


def in_digits(error):
    return power(f"{error:.1e}")


def power(text):
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def ulps_above_floor(found, true):
    """Of results for one true value; below the floor, of those negative or nan."""
    dtype = found.dtype.name
    return [
        0.0 if x >= 0 and true < FLOOR[dtype] else oracles.ulps(x, true, dtype)
        for x in found.tolist()
    ]


def of_largest_above_floor(found, true):
    """The error of a gradient relative to its largest component; infinity of a nan."""
    if not np.isfinite(found).all():
        return np.inf
    if exact.largest(true) < FLOOR[found.dtype.name]:
        return 0.0
    return exact.of_largest(found, true)


def relative(found, true):
    with mp.workdps(oracles.DIGITS):
        return float(abs(mp.mpf(found) - true) / true)


def relative_of_largest(found, true):
    with mp.workdps(oracles.DIGITS):
        errors = [abs(x - y) for x, y in zip(found, true, strict=True)]
        return float(max(errors) / max(abs(y) for y in true))


# --- tables ---------------------------------------------------------------------


def elementwise_table(dtype, count):
    functions = {
        "rel_entr": (
            kl_jax.rel_entr,
            jax.scipy.special.rel_entr,
            scipy.special.rel_entr,
        ),
        "generalized_kl": (
            kl_jax.generalized_kl,
            jax.scipy.special.kl_div,
            scipy.special.kl_div,
        ),
    }
    info = np.finfo(dtype)
    yield f"| {dtype} | p and q differ by | kl_jax | jax.scipy | scipy |"
    yield "|---|---|---|---|---|"
    for name, (ours, jaxs, scipys) in functions.items():
        for kind, p, q in pairs(dtype, count):
            truth = [getattr(oracles, name)(a, b) for a, b in zip(p, q, strict=True)]
            columns = []
            for found in (jax.jit(ours)(p, q), jax.jit(jaxs)(p, q), scipys(p, q)):
                worst = Worst()
                for x, true in zip(np.asarray(found).tolist(), truth, strict=True):
                    normal = float(info.smallest_normal) <= abs(true) <= info.max
                    error = lambda x, true=true: oracles.ulps(x, true, dtype)
                    worst.add(x, error if normal else None)
                columns.append(worst.cell(in_ulps, signed=name == "generalized_kl"))
            yield f"| {name} | {kind} | " + " | ".join(columns) + " |"


def check_exact(grid):
    """Raises unless exact.py agrees with mpmath's definitions on a sample."""
    worst, rows = 0.0, 0
    for _, batches in grid:
        for size, _, a, b in batches:
            if size > 1000:
                continue
            # The oracle has 140 digits of terms of order 1: 20 of what is above 1e-100.
            for x, y in list(zip(a, b, strict=True))[:: max(1, len(a) // 16)]:
                true = oracles.kl(x, y)
                if true > 1e-100:
                    worst = max(worst, relative(exact.kl_divergence(x, y), true))
                    rows += 1
                if size > 32:
                    continue
                gradients = exact.gradient_p(x, y), exact.gradient_q(x, y)
                for found, of in zip(gradients, oracles.kl_gradients(x, y), strict=True):
                    if max(abs(t) for t in of) > 1e-100:
                        found = [exact.mpf(t) for t in found]
                        worst = max(worst, relative_of_largest(found, of))
    if worst > 1e-20:
        raise ArithmeticError(f"exact.py and mpmath differ by {worst:.0e}")
    error = in_digits(worst)
    return (
        f"Exact values from Arb; mpmath's on {rows} rows differ by at most {error} of them."
    )


def logits_tables(dtype, grid, plotted):
    """Fills `plotted` with {library: {noise: worst relative error}}."""
    functions = from_logits()
    by_size_and_kind, below = {}, 0.0
    tiny = float(np.finfo(dtype).smallest_normal)
    yield f"| KL from logits, {dtype} | " + " | ".join(functions) + " |"
    yield "|---|" + "---|" * len(functions)
    for k, batches in grid:
        worst = {name: Worst() for name in functions}
        rows = 0
        for size, kinds, a, b in batches:
            truth = [exact.kl_divergence(x, y) for x, y in zip(a, b, strict=True)]
            rows += len(truth)
            for name, function in functions.items():
                found = np.asarray(function(a, b)).tolist()
                line = plotted.setdefault(name, {})
                for kind, x, true in zip(kinds, found, truth, strict=True):
                    if true < FLOOR[dtype]:
                        worst[name].add(x)
                        if name == "kl_jax":
                            unit = max(tiny, oracles.spacing(true, dtype))
                            below = max(below, float(abs(x - true) / unit))
                        continue
                    error = oracles.ulps(x, true, dtype)
                    worst[name].add(x, lambda _, error=error: error)
                    if np.isfinite(x):
                        line[k] = max(line.get(k, 0.0), relative(x, true))
                    if name == "kl_jax":
                        key = (size, str(kind))
                        by_size_and_kind[key] = max(by_size_and_kind.get(key, 0.0), error)
        columns = [worst[name].cell(in_ulps) for name in functions]
        yield f"| noise {level(k)}, {rows} rows | " + " | ".join(columns) + " |"
    yield ""
    yield f"| kl_jax, {dtype}, outcomes | " + " | ".join(KINDS) + " |"
    yield "|---|" + "---|" * len(KINDS)
    for size in sorted({size for size, _ in by_size_and_kind}):
        errors = [by_size_and_kind.get((size, kind)) for kind in KINDS]
        cells = ["-" if e is None else in_ulps(e) for e in errors]
        yield f"| {size} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        f"Where KL < 2^{round(np.log2(FLOOR[dtype]))}: off by at most {in_ulps(below)} "
        "times the smallest normal number, or ULP where that is larger."
    )


def gradient_table(dtype, grid):
    def gradient(function, argument):
        return jax.jit(jax.grad(lambda a, b: function(a, b).sum(), argument))

    @jax.jit
    def fisher(a, b, v):
        in_q = jax.grad(lambda b: kl_jax.kl_divergence(a, b).sum())
        return jax.jvp(in_q, (b,), (v,))[1]

    functions = {
        f"{name}, {of}": (gradient(function, argument), of)
        for name, function in (("kl_jax", kl_jax.kl_divergence), ("optax", optax_kl))
        for argument, of in ((1, "logits_q"), (0, "logits_p"))
    }
    yield f"| gradient of KL, {dtype} | " + " | ".join(functions) + " | kl_jax, F v |"
    yield "|---|" + "---|" * (len(functions) + 1)
    for k, batches in grid:
        worst = {name: Worst() for name in [*functions, "F v"]}
        rows = 0
        for size, _, a, b in batches:
            if size > 1000:
                continue
            v = np.random.default_rng(2).normal(size=b.shape).astype(dtype)
            truth = {
                "logits_p": [exact.gradient_p(x, y) for x, y in zip(a, b, strict=True)],
                "logits_q": [exact.gradient_q(x, y) for x, y in zip(a, b, strict=True)],
                "F v": [
                    exact.fisher_vector_product(x, y) for x, y in zip(b, v, strict=True)
                ],
            }
            rows += len(a)
            results = {name: (f(a, b), of) for name, (f, of) in functions.items()}
            results["F v"] = (fisher(a, b, v), "F v")
            for name, (found, of) in results.items():
                for x, true in zip(np.asarray(found), truth[of], strict=True):
                    if exact.largest(true) < FLOOR[dtype]:
                        continue
                    error = exact.of_largest(x, true) if np.isfinite(x).all() else np.nan
                    worst[name].add(error, float)
        columns = [w.cell(in_digits) for w in worst.values()]
        yield f"| noise {level(k)}, {rows} rows | " + " | ".join(columns) + " |"


def others_table(dtype, grid):
    heads = [f"noise {level(k)}" for k, _ in grid]
    yield f"| kl_jax, {dtype}, 2 to 32 outcomes | " + " | ".join(heads) + " |"
    yield "|---|" + "---|" * len(heads)
    for row in registry.DIVERGENCES.values():
        if row.label is None:
            continue
        function = jax.jit(row.function)
        cells = []
        for _, batches in grid:
            worst = Worst()
            for size, _, a, b in batches:
                if size > 32:
                    continue
                found = np.asarray(function(a, b)).tolist()
                for x, p, q in zip(found, a, b, strict=True):
                    true = exact.divergence(row, p, q)
                    error = lambda x, true=true: oracles.ulps(x, true, dtype)
                    worst.add(x, error if true >= FLOOR[dtype] else None)
            cells.append(worst.cell(in_ulps))
        yield f"| {row.label} | " + " | ".join(cells) + " |"


def by_rows(rows, function, a, b):
    """The results of `function`, a compiled program, of so many rows at a time."""
    starts = range(0, len(a), rows)
    found = [function(a[i : i + rows], b[i : i + rows]) for i in starts]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def value_errors(names, a, b, found):
    """Of one row, in ULP: of the divergences of these names, each found several times."""
    errors = []
    for name, values in zip(names, found, strict=True):
        row = registry.DIVERGENCES[name]
        true = exact.kl_divergence(a, b) if name == "kl" else exact.divergence(row, a, b)
        errors.append(ulps_above_floor(values, true))
    return errors


def gradient_errors(a, b, in_p, in_q):
    """Of one row's gradients of KL, each relative to its largest component."""
    pairs = (in_p, exact.gradient_p(a, b)), (in_q, exact.gradient_q(a, b))
    return [of_largest_above_floor(found, true) for found, true in pairs]


def alone_table(dtype, sizes, count, pool):
    """Each row's errors alone, with two others, and among all of its kind.

    The processes return errors: mpmath rounds the numbers that go from one to another.
    """
    of_a_kind = count * len(ALONE_NOISE[dtype])
    batches = {"alone": 1, "in threes": 3, f"in {of_a_kind}s": of_a_kind}
    yield f"| kl_jax, {dtype}, outcomes | | " + " | ".join(batches) + " | the worst |"
    yield "|---|---|" + "---|" * (len(batches) + 1)
    for size, names in sizes.items():
        a, b, rows = rows_alone(dtype, size, count)
        functions = [jax.jit(registry.DIVERGENCES[name].function) for name in names]
        found = [[by_rows(n, f, a, b) for n in batches.values()] for f in functions]
        found = np.moveaxis(found, -1, 0)
        errors = pool.map(value_errors, itertools.repeat(names), a, b, found, chunksize=16)
        for name, error in zip(names, np.moveaxis(list(errors), 1, 0), strict=True):
            label = registry.DIVERGENCES[name].label or "KL"
            cells = [in_ulps(worst) for worst in error.max(0)]
            cells.append(rows[error.max(1).argmax()])
            yield f"| {size} | {label} | " + " | ".join(cells) + " |"


def alone_gradient_table(dtype, sizes, count, pool):
    function = jax.jit(jax.grad(lambda a, b: kl_jax.kl_divergence(a, b).sum(), (0, 1)))
    yield f"| gradient of KL of rows alone, {dtype}, outcomes | logits_p | logits_q |"
    yield "|---|---|---|"
    for size in sizes:
        a, b, _ = rows_alone(dtype, size, count)
        found = by_rows(1, function, a, b)
        errors = pool.map(gradient_errors, a, b, *found, chunksize=16)
        cells = [in_digits(max(e)) for e in zip(*errors, strict=True)]
        yield f"| {size} | " + " | ".join(cells) + " |"


def alone_tables(dtype, quick, pool):
    sizes = ALONE_QUICK[dtype] if quick else ALONE
    count = ALONE_QUICK_COUNT if quick else ALONE_COUNT[dtype]
    noise = ", ".join(level(k) for k in ALONE_NOISE[dtype])
    yield (
        f"Rows of 500 to 2048 outcomes, alone, in threes and with all of a kind: "
        f"{count} of each kind and of one mode at noise {noise}. The worst is that row of "
        f"`logits(kind, noise, ({count}, outcomes), dtype)`."
    )
    yield ""
    yield from alone_table(dtype, sizes, count, pool)
    yield ""
    yield "Largest error of a component of the gradient, relative to the largest one:"
    yield ""
    yield from alone_gradient_table(dtype, sizes, count, pool)


def plot(lines, path):
    """Log-log, one line a library; the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "kl_jax", "svg.fonttype": "none", "font.size": 10}
    )
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    markers = dict(zip(lines, "os^vD", strict=False))
    for name, line in lines.items():
        noise = [10.0**-k for k in line]
        axes.loglog(
            noise,
            list(line.values()),
            label=name,
            marker=markers[name],
            linewidth=2.5 if name == "kl_jax" else 1.2,
            markersize=4,
        )
    axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.axhline(2.0**-24, color="grey", linewidth=0.8, linestyle="--")
    axes.text(1e-7, 1.5, "no digit right", color="grey", va="bottom", size=8)
    axes.text(1e-7, 2.0**-25, "half an ULP", color="grey", va="top", size=8)
    axes.set_ylim(bottom=1e-10)
    axes.minorticks_off()
    axes.set_xlabel("how much the logits differ")
    axes.set_ylabel("worst relative error of KL")
    axes.set_title("KL from float32 logits, 2 to 131072 outcomes", size=10)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def report(quick, plotted, pool):
    packages = [
        "jax",
        "jaxlib",
        "numpy",
        "scipy",
        "optax",
        "mpmath",
        "python-flint",
        "torch",
    ]
    count = 2_000 if quick else 20_000
    yield "# Worst error in ULP (and the number of negative results, where none is right)"
    yield ""
    yield machine.describe(*packages)
    yield f"{count} points a class for the elementwise functions."
    sizes = QUICK if quick else SIZES
    yield (
        "Rows of logits: " + ", ".join(f"{n} x {v}" for v, n in sizes.items()) + " of each "
        "kind at each noise level; errors of the rows with KL >= 2^-90 (float32) or 2^-960."
    )
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            yield ""
            yield from elementwise_table(dtype, count)
            rows = list(grid(dtype, quick))
            yield ""
            yield check_exact(rows)
            yield ""
            yield from logits_tables(dtype, rows, plotted.setdefault(dtype, {}))
            yield ""
            yield (
                "Largest error of a component of the gradient, and of the Fisher matrix F "
                "(the second derivative in logits_q) times v, relative to the largest one:"
            )
            yield ""
            yield from gradient_table(dtype, rows)
            yield ""
            yield from others_table(dtype, rows)
            yield ""
            yield from alone_tables(dtype, quick, pool)


def processes():
    """One for each core, for exact values. They are new ones: JAX forbids forks."""
    context = multiprocessing.get_context("spawn")
    cores = len(os.sched_getaffinity(0))
    return concurrent.futures.ProcessPoolExecutor(cores, mp_context=context)


def main():
    quick = machine.options(__doc__).parse_args().quick
    warnings.simplefilter("ignore")
    plotted = {}
    with processes() as pool:
        text = machine.printed(report(quick, plotted, pool))
    if not quick:
        (RESULTS / "accuracy.md").write_text(text)
        plot(plotted["float32"], RESULTS / "accuracy.svg")


if __name__ == "__main__":
    main()
