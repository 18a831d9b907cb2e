"""Worst error in ULP of kl_jax and of what people use, against mpmath.

    python benchmarks/accuracy.py          writes benchmarks/results/accuracy.md
    python benchmarks/accuracy.py --quick  a tenth of the points, prints only

Needs the `test` extra; torch is measured where it is installed.
"""

import argparse
import importlib.metadata
import pathlib
import platform
import sys
import warnings

import jax
import jax.scipy.special
import numpy as np
import optax
import scipy.special

import kl_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import oracles  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "accuracy.md"


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


def rows(dtype, count):
    """(class, logits_p, logits_q): noise 1 ... 1e-7 (1e-14), flat, normal and peaked."""
    rng = np.random.default_rng(1)
    digits = (0, 1, 2, 3, 5, 7) if dtype == "float32" else (0, 2, 5, 8, 11, 14)
    for k in digits:
        batches = []
        for size in (2, 8, 32, 256):
            repeats = max(1, count // 40 // size)
            for scale in (0.01, 1.0, 20.0):
                for offset in (0.0, 1000.0):
                    a = rng.normal(size=(repeats, size)) * scale
                    b = a + rng.normal(size=(repeats, size)) * 10.0**-k
                    batches.append(((a + offset).astype(dtype), b.astype(dtype)))
        yield f"noise 1e-{k}" if k else "noise 1", batches


def measured(found, truth, dtype):
    """(worst ULP, number negative) over the results of normal size."""
    info = np.finfo(dtype)
    low = float(info.smallest_normal)
    errors = [
        oracles.ulps(f, t, dtype)
        for f, t in zip(np.asarray(found).tolist(), truth, strict=True)
        if low <= abs(t) <= info.max
    ]
    return max(errors), int(np.sum(np.asarray(found) < 0))


def optax_kl(a, b):
    return optax.losses.kl_divergence(jax.nn.log_softmax(b), jax.nn.softmax(a))


def scipy_kl(a, b):
    p, q = scipy.special.softmax(a, -1), scipy.special.softmax(b, -1)
    return scipy.special.rel_entr(p, q).sum(-1)


def torch_kl(a, b):
    import torch

    a, b = torch.tensor(a), torch.tensor(b)
    p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    kl = torch.nn.functional.kl_div
    return kl(log_q, p, reduction="none", log_target=True).sum(-1).numpy()


def cell(worst, negative=None):
    text = (
        f"{worst:.1f}"
        if worst < 1000
        else f"{worst:.0e}".replace("e+0", "e").replace("e+", "e")
    )
    return text if not negative else f"{text} ({negative} < 0)"


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
    yield f"| {dtype} | p and q differ by | kl_jax | jax.scipy | scipy |"
    yield "|---|---|---|---|---|"
    for name, (ours, jaxs, scipys) in functions.items():
        for kind, p, q in pairs(dtype, count):
            truth = [getattr(oracles, name)(a, b) for a, b in zip(p, q, strict=True)]
            nonnegative = name == "generalized_kl"
            columns = []
            for found in (jax.jit(ours)(p, q), jax.jit(jaxs)(p, q), scipys(p, q)):
                worst, negative = measured(found, truth, dtype)
                columns.append(cell(worst, negative if nonnegative else None))
            yield f"| {name} | {kind} | " + " | ".join(columns) + " |"


def logits_table(dtype, count):
    functions = {"kl_jax": kl_jax.kl_divergence, "optax": optax_kl, "scipy": scipy_kl}
    try:
        importlib.metadata.version("torch")
        functions["torch"] = torch_kl
    except importlib.metadata.PackageNotFoundError:
        pass
    # float32 terms underflow below; the oracle has 140 digits of the terms.
    floor = {"float32": 2.0**-90, "float64": 2.0**-400}[dtype]
    yield f"| KL from logits, {dtype} | " + " | ".join(functions) + " |"
    yield "|---|" + "---|" * len(functions)
    for kind, batches in rows(dtype, count):
        worst = dict.fromkeys(functions, 0.0)
        negative = dict.fromkeys(functions, 0)
        total = 0
        for a, b in batches:
            truth = [oracles.kl(x, y) for x, y in zip(a, b, strict=True)]
            keep = np.array([t >= floor for t in truth])
            if not keep.any():
                continue
            kept = [t for t in truth if t >= floor]
            total += len(kept)
            for name, function in functions.items():
                error, below = measured(np.asarray(function(a, b))[keep], kept, dtype)
                worst[name] = max(worst[name], error)
                negative[name] += below
        columns = [cell(worst[name], negative[name]) for name in functions]
        yield f"| {kind}, {total} rows | " + " | ".join(columns) + " |"


def versions():
    names = ["jax", "jaxlib", "numpy", "scipy", "optax", "mpmath", "torch"]
    for name in names:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} not installed"


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def report(count):
    yield "# Worst error in ULP (and the number of negative results, where none is right)"
    yield ""
    yield (
        f"{processor()}, Python {platform.python_version()}, " + ", ".join(versions()) + "."
    )
    yield f"{count} points a class for the elementwise functions; rows of 2 to 256 logits."
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            for table in (elementwise_table, logits_table):
                yield ""
                yield from table(dtype, count)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    lines = []
    for line in report(2_000 if quick else 20_000):
        print(line, flush=True)
        lines.append(line)
    if not quick:
        RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
