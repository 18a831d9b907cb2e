"""Accuracy, time and memory on the accelerator that JAX finds, in one command.

    python benchmarks/accelerator.py           writes benchmarks/results/DEVICE.md
    python benchmarks/accelerator.py --quick   small sizes, prints only: also on a CPU

The errors of e^x, log(1 + x), KL and its siblings as the device computes them; the time of
values and gradients beside optax's KL, textbook Jensen-Shannon and a copy; the linear head.
Needs the `benchmarks` extra. Under 8 minutes on one GPU or TPU.
"""

import pathlib
import re
import statistics
import sys

import jax
import jax.numpy as jnp
import machine
import mpmath as mp
import numpy as np
from heads import compiled, heads
from speed import (
    MIB,
    MODES,
    RESULTS,
    SIBLINGS,
    Copy,
    InJax,
    interleaved,
    logits_of,
    optax_kl,
    textbook_jensen_shannon,
)

import kl_jax
from kl_jax import _exponentials

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import oracles
import registry

SHAPES, HEAD = [(4096, 32000), (2048, 131072)], (4096, 2048, 131072)
QUICK_SHAPES, QUICK_HEAD = [(64, 1000)], (64, 32, 5000)
NOISE = (1.0, 1e-3, 1e-6)
POINTS = 2000

# --- errors ---------------------------------------------------------------------


def worst(found, true):
    """In ULP of float32, of what neither overflows nor underflows there."""
    true = np.asarray(true, object)
    normal = [2.0**-90 < abs(t) < 2.0**120 for t in true]
    return oracles.worst(np.asarray(found)[normal], true[normal], "float32")


def exp(x):
    with mp.workdps(oracles.DIGITS):
        return mp.exp(mp.mpf(x))


def of_functions():
    """e^x as the divergences take it, and as XLA has it; log(1 + x)."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-60, 0, POINTS).astype("f4")
    small = (rng.choice([-1, 1], POINTS) * 10 ** -rng.uniform(0, 7, POINTS)).astype("f4")
    exponential = lambda x: _exponentials.exp_of_sum(x, jnp.zeros_like(x))
    for name, function, points, oracle in (
        ("e^x, as divergences take it", exponential, x, exp),
        ("e^x, XLA's", jnp.exp, x, exp),
        ("log(1 + x)", _exponentials.log1p, small * np.float32(0.99), oracles.log1p),
    ):
        true = [oracle(float(v)) for v in points]
        yield f"| {name} | {worst(jax.jit(function)(points), true):.1f} |"


def rows(size, count):
    """Flat, normal and peaked logits, alike to 1, 1e-3 and 1e-6, some with an offset."""
    rng = np.random.default_rng(size)
    scale = np.repeat([0.01, 1.0, 20.0], count)[:, None]
    a = rng.normal(size=(3 * count, size)) * scale
    b = a + rng.normal(size=a.shape) * np.resize(NOISE, len(a))[:, None]
    b[::4] += 1000
    return a.astype("f4"), b.astype("f4")


def of_divergences():
    batches = [rows(size, 12) for size in (2, 8, 33, 320)]
    for name, row in registry.MAIN.items():
        function = jax.jit(row.function)
        errors = []
        for a, b in batches:
            true = [oracles.divergence(row, x, y) for x, y in zip(a, b, strict=True)]
            errors.append(worst(function(a, b), true))
        yield f"| {name} | {max(errors):.1f} |"


# --- times ----------------------------------------------------------------------


def times_table(shape, dtype, mode, repetitions):
    yield f"| {list(shape)}, {dtype}, {mode} | median ms | least ms | temporary MiB |"
    yield "|---|---|---|---|"
    logits = [jnp.asarray(x, dtype) for x in logits_of(shape)]
    forms = {"KL": kl_jax.kl_divergence, "optax": optax_kl}
    forms |= {name: ours for name, (ours, _) in SIBLINGS.items()}
    forms["textbook Jensen-Shannon"] = textbook_jensen_shannon
    found = {name: InJax(form, mode != "value", *logits) for name, form in forms.items()}
    copies = {"a copy of one side": Copy(logits[0], True)}
    for name, seconds in interleaved(found | copies, repetitions).items():
        temporary = getattr(found.get(name), "temporary", None)
        size = "" if temporary is None else f"{temporary / MIB:.1f}"
        middle, least = 1e3 * statistics.median(seconds), 1e3 * min(seconds)
        yield f"| {name} | {middle:.3g} | {least:.3g} | {size} |"


def head_table(shape, repetitions):
    yield f"| head {list(shape)}, bfloat16 | median ms | least ms | temporary MiB |"
    yield "|---|---|---|---|"
    arguments = [x.astype("bfloat16") for x in heads(*shape)]
    for mode in MODES:
        run, size = compiled(kl_jax.linear_kl_divergence, mode != "value", arguments)
        call = lambda run=run: jax.block_until_ready(run(*arguments))
        seconds = interleaved({mode: call}, repetitions)[mode]
        middle, least = 1e3 * statistics.median(seconds), 1e3 * min(seconds)
        yield f"| {mode} | {middle:.3g} | {least:.3g} | {size:.1f} |"


def report(shapes, head, repetitions):
    yield f"# On {jax.devices()[0].device_kind}"
    yield ""
    yield machine.describe("jax", "jaxlib", "optax")
    yield "Errors against mpmath, float32, of what is above 2^-90."
    yield ""
    yield f"| {POINTS} points | ULP |"
    yield "|---|---|"
    yield from of_functions()
    yield ""
    yield "| 36 rows of each of 2, 8, 33 and 320 outcomes | ULP |"
    yield "|---|---|"
    yield from of_divergences()
    yield ""
    yield f"{repetitions} repetitions, interleaved; gradients in logits_q, of the mean."
    for shape in shapes:
        for dtype in ("float32", "bfloat16"):
            for mode in MODES:
                yield ""
                yield from times_table(shape, dtype, mode, repetitions)
    yield ""
    yield from head_table(head, repetitions)


def main():
    arguments = machine.options(__doc__).parse_args()
    sizes = (QUICK_SHAPES, QUICK_HEAD, 3) if arguments.quick else (SHAPES, HEAD, 11)
    if not arguments.quick and jax.default_backend() == "cpu":
        raise SystemExit("There is no accelerator; --quick runs on a CPU.")
    text = machine.printed(report(*sizes))
    if not arguments.quick:
        name = re.sub(r"\W+", "_", jax.devices()[0].device_kind.lower())
        (RESULTS / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()
