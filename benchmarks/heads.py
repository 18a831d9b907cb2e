"""Time and memory of KL between two linear heads, and of its gradient in the student's; and
of other losses of heads by `chunked`.

    python benchmarks/heads.py              writes benchmarks/results/heads.{md,svg}
    python benchmarks/heads.py --quick      small sizes, one repetition, prints only
    python benchmarks/heads.py --cuda FILE  compiles for that GPU too: a target config

The forms take turns in one process, in a new order every time, and must agree. At the end
the memory on accelerators, of which none is needed: a TPU where libtpu is installed, a GPU
by its target config (XLA's GpuTargetConfigProto, as text) where JAX's CUDA plugin is; set
JAX_PLATFORMS=cpu for that. What is not measured is named. Needs the `benchmarks` extra.
About 7 minutes on two idle cores for KL alone, --quick one for all.
"""

import functools
import os
import pathlib
import statistics

# What only compiles need not be alone with libtpu.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax
from jax.experimental import topologies
from speed import MIB, MODES, RESULTS, interleaved

import kl_jax

# Rows N, features D, vocabulary V. In the last one matrix products dominate.
SHAPES = [(512, 256, 32768), (1024, 512, 32768), (256, 256, 131072), (512, 1024, 16384)]
CURVE = [(256, 128, 2**k) for k in range(13, 19)]
CURVE_IN_CHUNKS = [(512, 128, 2**k) for k in range(13, 17)]
AHEAD = (4096, 2048, 131072)
QUICK = (256, 32, 5000)  # three tiles, the last one not full
BOUND = 1e-4  # of differences, relative to the largest entry of the value or gradient

# --- forms ----------------------------------------------------------------------


def naive(h_p, w_p, h_q, w_q):
    return kl_jax.kl_divergence(h_p @ w_p, h_q @ w_q)


def optax_kl(h_p, w_p, h_q, w_q):
    log_q = jax.nn.log_softmax(h_q @ w_q)
    return optax.losses.kl_divergence(log_q, jax.nn.softmax(h_p @ w_p))


def in_chunks(h_p, w_p, h_q, w_q):
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def chunk(h):
        return optax_kl(h[0], w_p, h[1], w_q)

    chunks = tuple(h.reshape(-1, 128, h.shape[-1]) for h in (h_p, h_q))
    return jax.lax.map(chunk, chunks).reshape(-1)


FULL = {"kl_jax": kl_jax.linear_kl_divergence, "naive": naive, "optax": optax_kl}
FORMS = FULL | {"optax, token chunks": in_chunks}

# --- other losses, in chunks of rows ---------------------------------------------

CHUNK = 64
BETA = 0.1  # of Jensen-Shannon, as in generalised knowledge distillation


def jensen_shannon(h_p, h_q, *, w_p, w_q):
    return kl_jax.jensen_shannon_divergence(h_p @ w_p, h_q @ w_q, beta=BETA)


def both_losses(h_p, h_q, labels, *, w_p, w_q):
    """Cross-entropy with the labels and KL, of one product for each head."""
    logits = h_q @ w_q
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return cross_entropy, kl_jax.kl_divergence(h_p @ w_p, logits)


def with_labels(losses):
    """Their sum, a function of heads: the labels follow from the shapes."""

    def total(h_p, w_p, h_q, w_q):
        labels = jnp.arange(len(h_q)) * 7919 % w_q.shape[1]
        return sum(losses(h_p, h_q, labels, w_p=w_p, w_q=w_q))

    return total


def of_heads(loss):
    return lambda h_p, w_p, h_q, w_q: loss(h_p, h_q, w_p=w_p, w_q=w_q)


def textbook_jensen_shannon(h_p, h_q, *, w_p, w_q):
    log_p, log_q = (jax.nn.log_softmax(h @ w) for h, w in ((h_p, w_p), (h_q, w_q)))
    log_m = jnp.logaddexp(log_p + np.log(BETA), log_q + np.log1p(-BETA))
    of_p = jnp.sum(jnp.exp(log_p) * (log_p - log_m), -1)
    return BETA * of_p + (1 - BETA) * jnp.sum(jnp.exp(log_q) * (log_q - log_m), -1)


def optax_both(h_p, h_q, labels, *, w_p, w_q):
    logits = h_q @ w_q
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    log_q = jax.nn.log_softmax(logits)
    kl = optax.losses.kl_divergence(log_q, jax.nn.softmax(h_p @ w_p))
    return cross_entropy, kl


IN_CHUNKS = {
    "Jensen-Shannon": {
        "kl_jax": of_heads(kl_jax.chunked(jensen_shannon, CHUNK)),
        "naive": of_heads(jensen_shannon),
        "textbook": of_heads(textbook_jensen_shannon),
    },
    "cross-entropy + KL": {
        "kl_jax": with_labels(kl_jax.chunked(both_losses, CHUNK)),
        "naive": with_labels(both_losses),
        "optax": with_labels(optax_both),
    },
}

# --- measuring ------------------------------------------------------------------


def compiled(kl, gradient, arguments):
    """What returns the mean over rows, and its gradient; its temporary MiB."""
    mean = lambda *x: jnp.mean(kl(*x))
    function = jax.value_and_grad(mean, (2, 3)) if gradient else mean
    run = jax.jit(function).lower(*arguments).compile()
    return run, run.memory_analysis().temp_size_in_bytes / MIB


def heads(n, d, v):
    """Of logits with standard deviation 2; the student's differ by about 0.5."""
    normal = functools.partial(np.random.default_rng(0).standard_normal, dtype="float32")
    h_p, w_p = normal((n, d)), normal((d, v)) * (2 / d**0.5)
    h_q, w_q = h_p + normal((n, d)) * 0.1, w_p + normal((d, v)) * (0.5 / d**0.5)
    return [jnp.asarray(x) for x in (h_p, w_p, h_q, w_q)]


def apart(found, true):
    """The largest difference, relative to the largest entry of its array."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(true), strict=True)
    return np.max([jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y)) for x, y in pairs])


def table(mode, forms, shapes, repetitions, plotted):
    """Fills `plotted` with {form: {V: (median ms, temporary MiB)}}."""
    yield (
        f"| N, D, V: {mode} | | median ms | least ms | / kl_jax | / naive "
        "| temporary MiB | apart |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for shape in shapes:
        arguments = heads(*shape)
        runs, sizes, off = {}, {}, {}
        for name, kl in forms.items():
            run, sizes[name] = compiled(kl, mode != "value", arguments)
            runs[name] = lambda run=run, x=arguments: jax.block_until_ready(run(*x))
        ours = runs["kl_jax"]()
        for name, run in runs.items():
            off[name] = apart(run(), ours)
            if not off[name] <= BOUND:
                raise ArithmeticError(f"{name} is {off[name]:.0e} off kl_jax at {shape}")
        times = interleaved(runs, repetitions)
        median = {name: 1e3 * statistics.median(x) for name, x in times.items()}
        for name, middle in median.items():
            plotted.setdefault(name, {})[shape[-1]] = middle, sizes[name]
            yield (
                f"| {list(shape)} | {name} | {middle:.3g} | {1e3 * min(times[name]):.3g} "
                f"| {middle / median['kl_jax']:.2f} | {middle / median['naive']:.2f} "
                f"| {sizes[name]:.1f} | {off[name]:.1g} |"
            )


def ahead_of_time(shape, cuda):
    """A line for each device."""
    n, d, v = shape
    devices = {"TPU v5p": {"platform": "tpu", "topology_name": "v5p:2x2x1"}}
    if cuda:
        config = {"topology": "1x1x1", "target_config": cuda.read_text()}
        devices[cuda.stem] = {"platform": "cuda", **config}
    for name, topology in devices.items():
        try:
            device = topologies.get_topology_desc(**topology).devices[0]
        except Exception as error:  # no libtpu, no plugin: whatever it says
            reason = str(error).strip().splitlines()[0]
            yield f"- Not measured: {name}. {type(error).__name__}: {reason}"
            continue
        at = jax.sharding.SingleDeviceSharding(device)
        head = [jax.ShapeDtypeStruct(x, "bfloat16", sharding=at) for x in ((n, d), (d, v))]
        both = ("kl_jax", "naive")
        sizes = [f"{x} {compiled(FULL[x], True, head * 2)[1]:.1f}" for x in both]
        yield f"- {name}: {', '.join(sizes)}"


# --- results --------------------------------------------------------------------


def plot(curves, path):
    """Log-log, one row a loss and one line a form; the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "kl_jax", "svg.fonttype": "none", "font.size": 10}
    )
    import matplotlib.pyplot as plt

    size = 7.2, 3 * len(curves)
    figure, rows = plt.subplots(len(curves), 2, figsize=size, layout="constrained")
    for panels, (title, lines) in zip(rows, curves.items(), strict=True):
        for i, axes in enumerate(panels):
            for (name, line), marker in zip(lines.items(), "os^", strict=True):
                y = [point[i] for point in line.values()]
                width = 2.5 if name == "kl_jax" else 1.2
                axes.plot(list(line), y, marker + "-", label=name, lw=width, markersize=4)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("vocabulary")
            axes.set_ylabel(("ms", "temporary MiB")[i])
        panels[0].set_title(title, fontsize=10, loc="left")
        panels[0].legend(frameon=False, fontsize=9)
    figure.suptitle(f"Losses of two linear heads, {MODES[1]}", size=10)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def named(loss, shapes):
    n, d, _ = shapes[0]
    return f"{loss}: {n} rows, {d} features"


def report(shapes, curve, in_chunks, ahead, repetitions, cuda, plotted):
    yield "# Time and memory of KL between two linear heads"
    yield ""
    yield machine.describe("jax", "jaxlib", "optax", "libtpu")
    yield (
        f"Load of the machine before: {os.getloadavg()[0]:.1f}. Times beside other work "
        "are to be compared within one shape only."
    )
    yield (
        f"Repetitions: {repetitions}, interleaved. N rows, D features, V outcomes, "
        "float32. The mean over rows; its gradient in the student's hidden states and in "
        "its matrix."
    )
    yield (
        "naive: kl_jax.kl_divergence of all logits. optax: of their log_softmax and "
        "softmax; token chunks: 128 rows at a time, checkpointed. Temporary memory: "
        "besides arguments and results, as XLA plans it."
    )
    yield (
        f"Other losses: kl_jax is chunked(f, {CHUNK}), naive f of all rows, textbook the "
        f"formula in log_softmax. beta of Jensen-Shannon is {BETA}."
    )
    yield (
        "Apart: the largest difference from kl_jax in the value or a gradient, relative to "
        f"the largest entry; no more than {BOUND}, or the script stops."
    )
    for mode in reversed(MODES):
        yield ""
        yield from table(mode, FORMS, shapes, repetitions, {})
    yield ""
    yield "As the vocabulary grows:"
    yield ""
    lines = plotted.setdefault(named("KL", curve), {})
    yield from table(MODES[1], FULL, curve, repetitions, lines)
    for loss, forms in IN_CHUNKS.items():
        yield ""
        yield f"{loss}, as the vocabulary grows:"
        yield ""
        lines = plotted.setdefault(named(loss, in_chunks), {})
        yield from table(MODES[1], forms, in_chunks, repetitions, lines)
    yield ""
    yield f"Compiled ahead of time, {list(ahead)} in bfloat16, {MODES[1]}, temporary MiB:"
    yield ""
    yield from ahead_of_time(ahead, cuda)


def main():
    parser = machine.options(__doc__)
    parser.add_argument("--cuda", type=pathlib.Path, help="a GPU's target config")
    arguments = parser.parse_args()
    quick, all_sizes = ([QUICK],) * 3, (SHAPES, CURVE, CURVE_IN_CHUNKS)
    sizes = (*quick, QUICK, 1) if arguments.quick else (*all_sizes, AHEAD, 5)
    plotted = {}
    text = machine.printed(report(*sizes, arguments.cuda, plotted))
    if not arguments.quick:
        name = "heads" if jax.default_backend() == "cpu" else "heads_gpu"
        (RESULTS / f"{name}.md").write_text(text)
        plot(plotted, RESULTS / f"{name}.svg")


if __name__ == "__main__":
    main()
