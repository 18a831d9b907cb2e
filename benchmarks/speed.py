"""Time and memory of KL and its siblings from logits, and of the student's gradient.

    python benchmarks/speed.py             writes benchmarks/results/speed.md
    python benchmarks/speed.py --quick     fewer repetitions, prints only
    python benchmarks/speed.py --rows 16   16 times the rows: for a GPU

kl_jax, optax, torch and torch.compile take turns in one process, in a new order every
time, so that all of them meet the same moods of the machine. Beside them, the time to read
both logits, and to write one gradient, at the speed of a copy. The other divergences take
turns with the form that a user would write. Needs the `test` extra; torch is measured where
it is installed, and on a GPU if it has CUDA. What is not measured is named. About 15
minutes on two idle cores, --quick about five.
"""

import functools
import os
import pathlib
import statistics
import time

# Leave room for torch on the same GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax

import kl_jax

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SHAPES = [(4096, 1000), (512, 32000), (64, 128256)]
DTYPES = ["float32", "bfloat16"]
MODES = ["value", "value and gradient"]
MIB = 2**20


def optax_kl(a, b):
    return optax.losses.kl_divergence(jax.nn.log_softmax(b), jax.nn.softmax(a))


def log_softmaxes(a, b):
    return (jax.nn.log_softmax(x.astype("float32")) for x in (a, b))


def textbook_jensen_shannon(a, b):
    log_p, log_q = log_softmaxes(a, b)
    log_m = jnp.logaddexp(log_p, log_q) - np.log(2).astype("float32")
    halves = jnp.exp(log_p) * (log_p - log_m) + jnp.exp(log_q) * (log_q - log_m)
    return halves.sum(-1) / 2


def textbook_jeffreys(a, b):
    log_p, log_q = log_softmaxes(a, b)
    return ((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)).sum(-1)


def textbook_skew(a, b):
    log_p, log_q = log_softmaxes(a, b)
    p = jnp.exp(log_p)
    return (p * (log_p - jnp.log(0.1 * p + 0.9 * jnp.exp(log_q)))).sum(-1)


def textbook_renyi(a, b):
    log_p, log_q = log_softmaxes(a, b)
    return -2 * jax.nn.logsumexp((log_p + log_q) / 2, -1)


# In kl_jax, and as the formula reads.
SIBLINGS = {
    "Jensen-Shannon": (kl_jax.jensen_shannon_divergence, textbook_jensen_shannon),
    "Jeffreys": (kl_jax.jeffreys_divergence, textbook_jeffreys),
    "skew KL, 0.1": (kl_jax.skew_kl_divergence, textbook_skew),
    "Renyi, order 0.5": (
        functools.partial(kl_jax.renyi_divergence, order=0.5),
        textbook_renyi,
    ),
}


def torch_kl(a, b):
    import torch

    log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    kl = torch.nn.functional.kl_div
    return kl(log_q, log_p, reduction="batchmean", log_target=True)


# --- contenders -----------------------------------------------------------------


class InJax:
    """A compiled function of the logits; what it needs besides arguments and results."""

    def __init__(self, kl, gradient, a, b):
        def mean(b, a):
            return jnp.mean(kl(a, b))

        function = jax.value_and_grad(mean) if gradient else mean
        self.arguments = b, a
        self.compiled = jax.jit(function).lower(*self.arguments).compile()
        memory = self.compiled.memory_analysis()
        self.temporary = memory and memory.temp_size_in_bytes

    def __call__(self):
        return jax.block_until_ready(self.compiled(*self.arguments))


class Copy:
    """Reads and writes as many bytes as one array of logits has: in place, or into a new
    buffer, as a gradient is written, for which the system may have to find pages.
    """

    def __init__(self, like, in_place):
        self.x = jnp.ones(like.nbytes // 4, jnp.uint32)
        # Of the identity, XLA would return the argument.
        self.copy = jax.jit(jnp.invert, donate_argnums=(0,) if in_place else ())
        self.in_place = in_place

    def __call__(self):
        y = self.copy(self.x).block_until_ready()
        if self.in_place:
            self.x = y


class InTorch:
    """Eager, or compiled; on CUDA, with its largest extra memory besides the results."""

    def __init__(self, kl, gradient, a, b, dtype):
        import torch

        self.torch, self.kl, self.gradient = torch, kl, gradient
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        self.a, self.b = (
            torch.from_numpy(x).to(self.device, getattr(torch, dtype)) for x in (a, b)
        )
        self.b.requires_grad_(gradient)
        self.temporary = None
        self()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            results = self()
            size = sum(x.nbytes for x in results)
            self.temporary = torch.cuda.max_memory_allocated() - before - size

    def __call__(self):
        with self.torch.set_grad_enabled(self.gradient):
            value = self.kl(self.a, self.b)
        results = (value.detach(),)
        if self.gradient:
            results += self.torch.autograd.grad(value, self.b)
        if self.device == "cuda":
            self.torch.cuda.synchronize()
        return results


def logits_of(shape):
    rng = np.random.default_rng(0)
    a = rng.normal(size=shape).astype("float32") * 2
    return a, a + rng.normal(size=shape).astype("float32") * np.float32(0.5)


def contenders(shape, dtype, gradient, skipped):
    """{name: a function that runs to the end}. Adds to `skipped` what cannot run."""
    a, b = logits_of(shape)
    logits = [jnp.asarray(x, dtype) for x in (a, b)]
    found = {
        "kl_jax": InJax(kl_jax.kl_divergence, gradient, *logits),
        "optax": InJax(optax_kl, gradient, *logits),
    }
    if "torch" not in skipped:
        found["torch"] = InTorch(torch_kl, gradient, a, b, dtype)
    if "torch.compile" not in skipped:
        import torch

        torch.compiler.reset()
        compiled = torch.compile(torch_kl, dynamic=False)
        try:
            found["torch.compile"] = InTorch(compiled, gradient, a, b, dtype)
        except Exception as error:  # no compiler, no Triton: whatever it says
            reason = str(error).strip().splitlines()[0]
            skipped["torch.compile"] = f"{type(error).__name__}: {reason}"
            print(f"NOT MEASURED: torch.compile, {skipped['torch.compile']}", flush=True)
    if dtype == "float32":
        check(found, gradient)
    copies = {"in place": Copy(logits[0], True), "anew": Copy(logits[0], False)}
    return found, copies


def check(found, gradient):
    """All compute the same."""
    value, *slopes = jax.tree.leaves(found["kl_jax"]())
    for name, function in found.items():
        results = jax.tree.leaves(function())
        if not name.startswith("torch"):
            results = [np.asarray(x) for x in results]
        else:
            results = [x.cpu().numpy() for x in results]
        np.testing.assert_allclose(results[0], value, rtol=1e-3, err_msg=name)
        if gradient:
            off = np.max(np.abs(results[1] - slopes[0])) / np.max(np.abs(slopes[0]))
            assert off < 1e-3, (name, off)


# --- times ----------------------------------------------------------------------


def interleaved(functions, repetitions):
    """{name: seconds of each repetition}, all functions once in every repetition."""
    rng = np.random.default_rng(0)
    times = {name: [] for name in functions}
    for repetition in range(repetitions + 2):
        for name in rng.permutation(list(functions)):
            start = time.perf_counter()
            functions[name]()
            elapsed = time.perf_counter() - start
            if repetition >= 2:
                times[name].append(elapsed)
    return times


def table(dtype, mode, shapes, repetitions, skipped):
    gradient = mode != "value"
    yield f"| {dtype}, {mode} | | median ms | least ms | / kl_jax | temporary MiB |"
    yield "|---|---|---|---|---|---|"
    for shape in shapes:
        found, copies = contenders(shape, dtype, gradient, skipped)
        times = interleaved(found | copies, repetitions)
        in_place, anew = times.pop("in place"), times.pop("anew")
        times["roofline"] = in_place
        if gradient:
            times["roofline"] = [x + y / 2 for x, y in zip(anew, in_place, strict=True)]
        ours = statistics.median(times["kl_jax"])
        for name, seconds in times.items():
            middle, least = statistics.median(seconds), min(seconds)
            temporary = getattr(found.get(name), "temporary", None)
            size = "" if temporary is None else f"{temporary / MIB:.1f}"
            yield (
                f"| {list(shape)} | {name} | {1e3 * middle:.3g} | {1e3 * least:.3g} "
                f"| {middle / ours:.2f} | {size} |"
            )


def siblings_table(dtype, mode, shapes, repetitions):
    gradient = mode != "value"
    yield f"| {dtype}, {mode} | | kl_jax ms | textbook ms | / kl_jax | temporary MiB |"
    yield "|---|---|---|---|---|---|"
    for shape in shapes:
        logits = [jnp.asarray(x, dtype) for x in logits_of(shape)]
        for name, forms in SIBLINGS.items():
            pair = zip(("kl_jax", "textbook"), forms, strict=True)
            found = {who: InJax(form, gradient, *logits) for who, form in pair}
            if dtype == "float32":
                check(found, gradient)
            times = interleaved(found, repetitions)
            ours, theirs = (1e3 * statistics.median(x) for x in times.values())
            sizes = [x.temporary for x in found.values() if x.temporary is not None]
            yield (
                f"| {list(shape)} | {name} | {ours:.3g} | {theirs:.3g} "
                f"| {theirs / ours:.2f} | {', '.join(f'{x / MIB:.1f}' for x in sizes)} |"
            )


def absent():
    """{what is not measured: why}."""
    why = None
    if not machine.installed("torch"):
        why = "torch is not installed"
    elif jax.default_backend() not in ("cpu", "gpu"):
        why = f"torch has no {jax.default_backend()}"
    else:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        if jax.default_backend() == "gpu" and not torch.cuda.is_available():
            why = "torch is installed without CUDA"
    return {name: why for name in ("torch", "torch.compile") if why}


def report(repetitions, rows):
    skipped = absent()
    shapes = [(rows * n, size) for n, size in SHAPES]
    yield "# Time of KL and its siblings from logits, and of the gradient in logits_q"
    yield ""
    yield machine.describe("jax", "jaxlib", "optax", "torch")
    yield (
        f"{repetitions} repetitions, interleaved. The mean over rows; gradients of it. "
        "bfloat16: kl_jax computes in float32, the others round to bfloat16 in between."
    )
    yield (
        "Roofline: reading both logits, as long as a copy of one of them in place takes in "
        "the same run; with the gradient, a copy to a new buffer and reading one more."
    )
    cells = [(dtype, mode) for dtype in DTYPES for mode in MODES]
    for cell in cells:
        yield ""
        yield from table(*cell, shapes, repetitions, skipped)
    yield ""
    fewer = max(5, repetitions // 3)
    yield (
        f"The other divergences, {fewer} repetitions, medians. Textbook: the formula of "
        "log_softmax in float32. Temporary memory of kl_jax and of that."
    )
    for cell in cells:
        yield ""
        yield from siblings_table(*cell, shapes, fewer)
    yield ""
    for name, why in skipped.items():
        yield f"Not measured: {name}. {why}"


def main():
    parser = machine.options(__doc__)
    parser.add_argument("--rows", type=int, default=1, help="times the rows")
    arguments = parser.parse_args()
    print(f"Load of the machine before: {os.getloadavg()[0]:.1f}", flush=True)
    text = machine.printed(report(5 if arguments.quick else 31, arguments.rows))
    if not arguments.quick:
        name = "speed.md" if jax.default_backend() == "cpu" else "speed_gpu.md"
        (RESULTS / name).write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main()
