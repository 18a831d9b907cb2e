"""PyTorch's own cases for kl_div, and others at the edges, as NumPy arrays.

No torch and no kl_jax here: `record_torch.py` evaluates these with torch and writes
`torch_kl_div.json`; `test_torch_compat.py` replays that table.
"""

import itertools

import numpy as np

REDUCTIONS = ("none", "mean", "batchmean", "sum")
POINT_INPUTS = (0.0, -1.0, 1.5, -np.inf, np.inf, np.nan)
POINT_TARGETS = (0.0, -0.0, 0.3, 1.0, 2.5, -1e-3, -1.0, np.inf, -np.inf, np.nan)
POINT_LOG_TARGETS = (0.0, -1.0, -1.2, -745.5, -1000.0, -np.inf, 1.0, 800.0, np.inf)
BROADCAST = (
    ((2, 3), (3,)),
    ((3,), (2, 3)),
    ((2, 1), (2, 3)),
    ((), (2, 3)),
    ((4, 2, 3), (2, 3)),
    ((2, 3), (4, 2, 3)),
    ((1, 3), (2, 1, 3)),
    ((5, 1, 3), (2, 3)),
)
EMPTY = ((0,), (0, 3), (0, 0), (3, 0), (2, 0, 3))


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _pair(rng, input_shape, target_shape, log_target):
    """rand in (0, 1), the input logged, as in PyTorch's module tests."""
    log_q = np.log(rng.uniform(0.01, 1, input_shape))
    target = rng.uniform(0.01, 1, target_shape)
    return log_q, np.log(target) if log_target else target


def cases():
    """Yields (name, input, target, keywords): float64 arrays, cast by the caller."""
    rng = np.random.default_rng(20260)
    both = (False, True)
    for shape, reduction, log_target in itertools.product(((2,), (2, 3)), REDUCTIONS, both):
        log_q = log_softmax(rng.uniform(0, 9, shape))
        log_p = log_softmax(rng.uniform(0, 9, shape))
        target = log_p if log_target else np.exp(log_p)
        kwargs = {"reduction": reduction, "log_target": log_target}
        yield "opinfo sample_inputs_kl_div", log_q, target, kwargs
    for shape, reduction, log_target in itertools.product(((10, 10), ()), REDUCTIONS, both):
        kwargs = {"reduction": reduction, "log_target": log_target}
        yield "module KLDivLoss", *_pair(rng, shape, shape, log_target), kwargs
    for reduction in ("none", "mean", "sum"):
        kwargs = {"reduction": reduction}
        yield "KLDivLoss_no_batch_dim", *_pair(rng, (3,), (3,), False), kwargs
    for reduction, log_target in itertools.product(("batchmean", "sum"), both):
        log_p = log_softmax(rng.normal(size=(2, 5)))
        target = log_p if log_target else np.exp(log_p)
        kwargs = {"reduction": reduction, "log_target": log_target}
        log_q = log_softmax(rng.normal(size=(2, 5)))
        yield "test_KLDivLoss_batch_mean", log_q, target, kwargs
    log_p = log_softmax(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    kwargs = {"reduction": "none", "log_target": True}
    yield "test_kl_div_log_softmax_target", log_p, log_p, kwargs
    x = np.array([[2.0, 3.0, 5.0], [3.0, 2.0, 1.0]])
    y = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    yield "test_kl_div_with_diff_type", x, y, {}
    yield "test_kl_div_with_diff_type_log_target", x, np.log(y), {"log_target": True}
    for log_target in both:
        log_p = log_softmax(rng.normal(size=(5, 10)))
        target = log_p if log_target else np.exp(log_p)
        log_q = log_softmax(rng.normal(size=(5, 10)))
        yield "jit_metaprogramming", log_q, target, {"log_target": log_target}
    for shapes, reduction, log_target in itertools.product(BROADCAST, REDUCTIONS, both):
        kwargs = {"reduction": reduction, "log_target": log_target}
        yield "broadcast", *_pair(rng, *shapes, log_target), kwargs
    for shape, reduction, log_target in itertools.product(EMPTY, REDUCTIONS, both):
        kwargs = {"reduction": reduction, "log_target": log_target}
        yield "empty", np.zeros(shape), np.zeros(shape), kwargs
    fixed = _pair(rng, (2, 3), (2, 3), False)
    for size_average, reduce, reduction in itertools.product(
        (None, True, False), (None, True, False), (*REDUCTIONS, "elementwise_mean")
    ):
        kwargs = {
            "size_average": size_average,
            "reduce": reduce,
            "reduction": reduction,
        }
        yield "legacy", *fixed, kwargs
    for log_target, targets in ((False, POINT_TARGETS), (True, POINT_LOG_TARGETS)):
        grid = np.meshgrid(POINT_INPUTS, targets)
        kwargs = {"reduction": "none", "log_target": log_target}
        yield "points", grid[0], grid[1], kwargs
