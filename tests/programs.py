"""How the tests compile: a whole function at a time, and no harder than they look.

A function called outside `jit` compiles a program for each operation around it, 30 to 50 ms
of CPU time each, and one for each slice of a JAX array that a test then reads. So tests
call compiled functions, with NumPy arrays in and out.
"""

import contextlib
import functools
import unittest.mock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# LLVM's first level contracts as its third does: KL, Jensen-Shannon and their slopes have
# the same bits. Without the emitters of fusions that came in 2025, too, value and gradient
# of KL are compiled in 0.57 CPU seconds instead of 1.1; `quick` 0.2. On JAX 0.12, which has
# no others, in 1.1 and 0.7.
_OPTIMIZED: dict[str, Any] = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_parallel_codegen_split_count": 1,
}
if jax.__version_info__ < (0, 11):
    _OPTIMIZED["xla_cpu_use_fusion_emitters"] = False

# What `jax_disable_most_optimizations` sets, for one program.
_QUICK = {
    **_OPTIMIZED,
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}

# Part of the keys of JAX's caches, which `jax_disable_most_optimizations` is not.
_quickly = jax.make_user_context(False)


def compiled(fun, **kwargs):
    """`jax.jit(fun)` as users have it: for what the bounds are promised of first."""
    return _on_host(jax.jit(fun, **kwargs))


def optimized(fun, **kwargs):
    """`jax.jit(fun)` with all that LLVM does to roundings, contractions among them, at half
    the price: for tests that count ULP.
    """
    return _on_host(jax.jit(fun, compiler_options=_OPTIMIZED, **kwargs))


def quick(fun, **kwargs):
    """`jax.jit(fun)` without most of LLVM's optimisations, at a quarter of the price: for
    tests of anything but roundings, memory and operations. It rounds a little differently.
    """
    return _on_host(jax.jit(fun, compiler_options=_QUICK, **kwargs))


def in_precision(dtype):
    """`optimized` for float32; `quick` for float64, which has constants and series of its
    own, and the same formulas.
    """
    return optimized if dtype == "float32" else quick


def temporary_memory(fun, *args):
    """Bytes that a program needs beside its arguments and results. XLA assigns its buffers
    before LLVM begins: `quick` programs need the same to the byte, at a fifth of the price.
    """
    program = jax.jit(fun).lower(*args).compile(compiler_options=_QUICK)
    return program.memory_analysis().temp_size_in_bytes


@contextlib.contextmanager
def quickly():
    """All that is compiled inside, `quick` or not: for what `quick` cannot be around, as
    options are only for the outermost `jit`.
    """
    with _quickly(True), _options_for_all():
        jax.config.update("jax_disable_most_optimizations", True)
        try:
            yield
        finally:
            jax.config.update("jax_disable_most_optimizations", False)


def _options_for_all():
    """What `jax_disable_most_optimizations` leaves out of `_QUICK`: a program of one
    operation takes 23 ms with it and 54 without. JAX has no flag for it, and its releases
    before 0.11 do not change any more.
    """
    if jax.__version_info__ >= (0, 11):
        return contextlib.nullcontext()
    from jax._src import compiler

    options_of = compiler.get_compile_options

    def quick_options_of(*args, env_options_overrides=None, **kwargs):
        options = _QUICK | dict(env_options_overrides or {})
        return options_of(*args, env_options_overrides=options, **kwargs)

    return unittest.mock.patch.object(compiler, "get_compile_options", quick_options_of)


def _on_host(jitted):
    """With NumPy arrays out, of which slices are cheap."""

    @functools.wraps(jitted)
    def call(*args, **kwargs):
        return jax.device_get(jitted(*args, **kwargs))

    return call


def of_rows(function):
    """Values and gradients of a function of rows, each of which depends on its own. A vmap
    of `jax.value_and_grad` is traced for one row and again for all, in twice the time.
    """

    def both(*rows):
        value, pullback = jax.vjp(function, *rows)
        return value, pullback(jnp.ones_like(value))

    return both


def of_lengths(program, lengths, rows=16):
    """`program(a, b)` of logits of any shape, in calls of so many rows: one program a
    length. Shorter rows get outcomes that exist on neither side.
    """

    def call(a, b):
        outcomes = a.shape[-1]
        length = min(n for n in lengths if n >= outcomes)
        a, b = (padded(x, length) for x in (a, b))
        which = np.resize(np.arange(len(a)), (-(-len(a) // rows), rows))
        found = [program(a[i], b[i]) for i in which]
        every = jax.tree.map(lambda *x: np.concatenate(x)[: len(a)], *found)
        return jax.tree.map(lambda x: x[:, :outcomes] if x.ndim > 1 else x, every)

    return call


def padded(logits, length):
    width = [(0, 0), (0, length - logits.shape[-1])]
    return np.pad(logits, width, constant_values=-np.inf)
