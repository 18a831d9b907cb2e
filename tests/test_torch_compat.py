"""`kl_div` and `KLDivLoss` against a table recorded from PyTorch, and its deviations."""

import functools
import itertools
import json
import pathlib
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import optimized, quick

from kl_jax import KLDivLoss, batchmean, kl_div, kl_divergence, mean
from kl_jax import sum as sum_

TABLE = pathlib.Path(__file__).with_name("torch_kl_div.json")
RECORDED = json.loads(TABLE.read_text())
NAN, INF = np.nan, np.inf

# In units of eps times the sum of the terms' magnitudes. Worst difference from PyTorch
# seen, 0.98; twice that.
TOLERANCE = 2.0


def unpacked(entry, dtype):
    return np.array(entry["data"], dtype).reshape(entry["shape"])


def arguments(case, dtype):
    return unpacked(case["input"], dtype), unpacked(case["target"], dtype)


def quiet(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def replay(cases, dtype):
    """Of each case the value, the module's value and the two gradients of its sum."""

    def of_one(kwargs, x, y):
        value, back = jax.vjp(lambda x, y: quiet(kl_div, x, y, **kwargs), x, y)
        module = quiet(KLDivLoss(**kwargs), x, y)
        return value, module, *back(jnp.ones_like(value))

    # One program for all: they are of hundreds of shapes.
    @quick
    def of_all(pairs):
        return [of_one(c["kwargs"], *pair) for c, pair in zip(cases, pairs, strict=True)]

    return of_all([arguments(case, dtype) for case in cases])


def rounding(x, y, kwargs, dtype):
    """eps times the sum of the magnitudes of the terms."""
    x, y = np.broadcast_arrays(x.astype(np.float64), y.astype(np.float64))
    log_target = kwargs.get("log_target", False)
    with np.errstate(all="ignore"):
        p = np.exp(y) if log_target else y
        log_p = y if log_target else np.log(np.abs(y))
        size = np.abs(p * log_p) + np.abs(p * x) + np.abs(p)
    total = np.nansum(np.where(np.isfinite(size), size, 0))
    return np.finfo(dtype).eps * max(total, 1e-30)


def assert_same(found, expected, unit):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    infinite = np.isinf(expected) | np.isinf(found)
    np.testing.assert_array_equal(found[infinite], expected[infinite])
    finite = np.isfinite(expected)
    if finite.any():
        assert np.abs(found - expected)[finite].max() <= TOLERANCE * unit


def table(name, dtype):
    return [c for c in RECORDED["cases"] if (c["name"], c["dtype"]) == (name, dtype)]


ORDINARY = sorted({c["name"] for c in RECORDED["cases"]} - {"legacy", "points"})


@pytest.mark.parametrize("name", ORDINARY)
def test_replays_pytorchs_cases(name, dtype):
    cases = table(name, dtype)
    assert cases
    for case, found in zip(cases, replay(cases, dtype), strict=True):
        unit = rounding(*arguments(case, dtype), case["kwargs"], dtype)
        keys = ("value", "module", "grad_input", "grad_target")
        for key, array in zip(keys, found, strict=True):
            assert array.dtype == dtype
            assert_same(array, unpacked(case[key], dtype), unit)


@pytest.mark.parametrize("log_target", [False, True])
def test_terms_in_ulp(log_target):
    """Against float64, in which a float32 term has twice its digits."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-12, 0, 3000).astype("f4")
    t = x + rng.normal(size=3000) * 10.0 ** -np.resize([0.0, 2, 5], 3000)
    t = (t if log_target else np.exp(t)).astype("f4")
    terms = optimized(lambda x, t: kl_div(x, t, reduction="none", log_target=log_target))
    a, b = np.float64([x, t])
    parts = (np.exp(b) * (b - a), 0 * a) if log_target else (b * np.log(b), -b * a)
    ulp = np.spacing(np.abs(parts).max(0).astype("f4"))
    assert (np.abs(terms(x, t) - sum(parts)) <= 3 * ulp).all()


def test_log_softmax_target_gives_exact_zeros():
    (case,) = table("test_kl_div_log_softmax_target", "float32")
    x, y = arguments(case, "float32")
    np.testing.assert_array_equal(kl_div(x, y, **case["kwargs"]), np.zeros((2, 3)))


# Where PyTorch returns nan and the mathematics has a value: (input, target) -> value.
VALUES = {
    False: {(-INF, 0.0): 0.0, (INF, 0.0): 0.0, (0.0, INF): INF, (1.5, INF): INF},
    True: {(x, -INF): 0.0 for x in (0.0, -1.0, 1.5, -INF, INF)}
    | {(-INF, t): INF for t in (-745.5, -1000.0)}
    | {(INF, t): -INF for t in (-745.5, -1000.0)},
}


@pytest.mark.parametrize("log_target", [False, True])
def test_points_equal_pytorchs_but_for_the_listed_deviations(log_target, dtype):
    (case,) = (c for c in table("points", dtype) if c["kwargs"]["log_target"] == log_target)
    x, y = arguments(case, dtype)
    expected = unpacked(case["value"], dtype)
    used = set()
    for index in np.ndindex(x.shape):
        key = float(x[index]), float(y[index])
        if key in VALUES[log_target]:
            assert np.isnan(expected[index]), f"not a deviation: {key}"
            expected[index] = VALUES[log_target][key]
            used.add(key)
    assert used == set(VALUES[log_target])
    ((found, _, grad_input, grad_target),) = replay([case], dtype)
    for index in np.ndindex(x.shape):
        unit = rounding(x[index], y[index], case["kwargs"], dtype)
        assert_same(found[index], expected[index], unit)

    expected_input = unpacked(case["grad_input"], dtype)
    expected_target = unpacked(case["grad_target"], dtype)
    absent = (y == -INF) if log_target else (y == 0)
    assert np.isnan(expected_target[absent]).all(), "not a deviation"
    held = absent & ~np.isnan(x)
    np.testing.assert_array_equal(grad_target[held], 0)
    np.testing.assert_array_equal(grad_input[held], 0)
    finite = np.isfinite(expected) & ~absent
    for index in zip(*np.nonzero(finite), strict=True):
        unit = rounding(x[index], y[index], case["kwargs"], dtype)
        assert_same(grad_input[index], expected_input[index], unit)
        assert_same(grad_target[index], expected_target[index], unit)


def test_target_nan_or_negative_gives_nan():
    x, target = np.meshgrid([0.0, -1.0, -INF, INF, NAN], [NAN, -1e-3, -1.0, -INF])
    assert np.isnan(kl_div(x, target, reduction="none")).all()
    target = np.array([0.0, -INF, 0.5])
    for log_target in (False, True):
        found = kl_div(np.full(3, NAN), target, reduction="none", log_target=log_target)
        assert np.isnan(found).all()


LEGACY = list(itertools.product((None, True, False), repeat=2))


@pytest.mark.parametrize(("size_average", "reduce"), LEGACY)
def test_deprecated_pair(size_average, reduce, dtype):
    seen = 0
    for case in table("legacy", dtype):
        kwargs = case["kwargs"]
        if (kwargs["size_average"], kwargs["reduce"]) != (size_average, reduce):
            continue
        x, y = arguments(case, dtype)
        expected = unpacked(case["value"], dtype)
        given = size_average is not None or reduce is not None
        if given and kwargs["reduction"] == "batchmean":
            expected = expected * x.shape[0]  # PyTorch divides a second time
        unit = rounding(x, y, kwargs, dtype)
        if given:
            with pytest.warns(DeprecationWarning, match="size_average and reduce"):
                found = kl_div(x, y, **kwargs)
            with pytest.warns(DeprecationWarning, match="size_average and reduce"):
                module = KLDivLoss(**kwargs)
        else:
            found, module = quiet(kl_div, x, y, **kwargs), KLDivLoss(**kwargs)
        assert_same(found, expected, unit)
        assert_same(quiet(module, x, y), unpacked(case["module"], dtype), unit)
        seen += 1
    assert seen == 5


def test_deprecated_pair_is_positional_and_ignores_reduction():
    x, y = np.zeros((2, 3), "f4"), np.full((2, 3), 0.5, "f4")
    with pytest.warns(DeprecationWarning, match="reduction='sum'"):
        total = kl_div(x, y, False, True, "not a reduction")
    np.testing.assert_allclose(total, 3 * np.log(0.5), rtol=1e-6)
    with pytest.warns(DeprecationWarning, match="reduction='none'"):
        assert KLDivLoss(1, 0).reduction == "none"


def only_warning(caught, category, text):
    (warning,) = caught
    assert warning.category is category
    assert text in str(warning.message)
    assert warning.filename == __file__  # points at the caller


def test_warnings_name_the_caller():
    x, y = np.zeros((2, 3), "f4"), np.full((2, 3), 0.5, "f4")
    loss = KLDivLoss()
    calls = (
        (lambda: kl_div(x, y), UserWarning, "support size"),
        (lambda: loss(x, y), UserWarning, "support size"),
        (lambda: kl_div(x, y, True), DeprecationWarning, "reduction='mean'"),
        (lambda: KLDivLoss(reduce=False), DeprecationWarning, "reduction='none'"),
        (
            lambda: kl_div(x, y, reduction="elementwise_mean"),
            DeprecationWarning,
            "elementwise_mean",
        ),
    )
    for call, category, text in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        only_warning(caught, category, text)
    for reduction in ("none", "sum", "batchmean"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kl_div(x, y, reduction=reduction)


@pytest.mark.parametrize("reduction", ["avg", "Mean", "", None, 1])
def test_bad_reduction(reduction):
    x = np.zeros((2, 3), "f4")
    with pytest.raises(ValueError, match=f"kl_div: reduction.*found {reduction!r}"):
        kl_div(x, x, reduction=reduction)
    loss = KLDivLoss(reduction=reduction)  # as PyTorch: refused when called
    with pytest.raises(ValueError, match="kl_div: reduction"):
        jax.jit(loss)(x, x)


@pytest.mark.parametrize("log_target", [1, "yes", None])
def test_log_target_must_be_a_bool(log_target):
    x = np.zeros((2, 3), "f4")
    with pytest.raises(TypeError, match="kl_div: log_target must be a bool"):
        kl_div(x, x, reduction="sum", log_target=log_target)


@pytest.mark.parametrize("bad", [np.int32, np.bool_, np.complex64])
def test_integers_and_complex_numbers_are_refused(bad):
    x, y = np.zeros((2, 3), "f4"), np.zeros((2, 3), bad)
    with pytest.raises(TypeError, match="kl_div: target must be floating point"):
        kl_div(x, y, reduction="sum")
    with pytest.raises(TypeError, match="kl_div: input must be floating point"):
        kl_div(y, x, reduction="sum")


def test_shapes_that_do_not_broadcast():
    message = r"^kl_div: .* shapes that broadcast, found input \(3, 5\), target \(5, 3\)"
    with pytest.raises(ValueError, match=message):
        jax.jit(functools.partial(kl_div, reduction="sum"))(
            np.zeros((3, 5), "f4"), np.zeros((5, 3), "f4")
        )


def test_dtypes():
    def dtypes(*arguments):
        total = functools.partial(kl_div, reduction="sum")
        value, slopes = jax.eval_shape(jax.value_and_grad(total, (0, 1)), *arguments)
        return value.dtype, *(slope.dtype for slope in slopes)

    with jax.enable_x64(True):
        kinds = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)
        half, _, single, double = arrays = [jax.ShapeDtypeStruct((3,), k) for k in kinds]
        for x, y in itertools.product(arrays[:3], repeat=2):
            assert dtypes(x, y) == (jnp.float32, x.dtype, y.dtype)
        assert dtypes(half, double) == (jnp.float64, jnp.bfloat16, jnp.float64)
        assert dtypes(single, 0.5)[0] == jnp.float32
        assert kl_div(0.5, 0.5, reduction="sum").dtype == jnp.float64


def test_float16_and_mixed_dtypes_give_pytorchs_number():
    # test_kl_div_with_diff_type and its log-target twin, tolerance as there.
    x = np.array([[2, 3, 5], [3, 2, 1]])
    y = np.array([[1, 2, 3], [4, 5, 6]])
    with jax.enable_x64(True):
        kinds = itertools.product((np.float16, np.float32, np.float64), repeat=2)
        pairs = [(x.astype(a), y.astype(b), np.log(y).astype(b)) for a, b in kinds]

        @quick
        def of_all(pairs):
            plain = [quiet(kl_div, x, y) for x, y, _ in pairs]
            return plain, [quiet(kl_div, x, y, log_target=True) for x, _, y in pairs]

        for found in np.ravel(of_all(pairs)):
            np.testing.assert_allclose(found, -3.6624908251428976, atol=1e-3, rtol=0)


def test_float16_batchmean_does_not_overflow():
    # 4096 rows of 23.6 nats: the sum, 96,700, is beyond float16.
    p = np.tile(np.array([1.0, 0.0], "f2"), (4096, 1))
    log_q = np.tile(np.array([-23.6, -0.0], "f2"), (4096, 1))
    found = kl_div(log_q, p, reduction="batchmean")
    assert np.asarray(found) == np.float32(np.float16(23.6))


def test_transforms():
    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=(4, 2, 5)).astype("f4") for _ in range(2))
    loss = functools.partial(kl_div, reduction="batchmean")

    @quick
    def of_all(a, b):
        x, y = jax.nn.log_softmax(a), jax.nn.softmax(b)
        terms = kl_div(x, y, reduction="none")
        return {
            "target": y,
            "vmap": jax.vmap(loss)(x, y),
            "each": [loss(a, b) for a, b in zip(x, y, strict=True)],
            "slope": jax.grad(loss)(x, y),
            "batchmean": loss(x, y),
            "batchmean of terms": batchmean(lambda: terms)(),
            "sum": kl_div(x, y, reduction="sum"),
            "sum of terms": sum_(lambda: terms)(),
            "rows": mean(kl_divergence)(jnp.log(y).reshape(-1, 5), x.reshape(-1, 5)),
        }

    found = of_all(a, b)
    np.testing.assert_allclose(found["vmap"], found["each"], rtol=2e-6)
    np.testing.assert_allclose(found["slope"], -found["target"] / 4, rtol=1e-6)
    np.testing.assert_allclose(found["sum of terms"], found["sum"])
    np.testing.assert_allclose(found["batchmean of terms"], found["batchmean"])
    np.testing.assert_allclose(found["batchmean"] * 4 / 8, found["rows"], rtol=2e-6)


def test_second_derivatives(dtype):
    # torch_kl_div's table: d2/dinput2 = 0, mixed = -1, d2/dtarget2 = 1/target; e^t forms.
    def hessian(x, y, log_target=False):
        loss = functools.partial(kl_div, reduction="sum", log_target=log_target)
        return jax.hessian(loss, (0, 1))(x, y)

    @quick
    def hessians(x, targets, log_targets):
        return [hessian(x, y) for y in targets], [hessian(x, y, True) for y in log_targets]

    x, *y = (np.array(z, dtype) for z in (-1.0, 0.3, 0.0, -1.2, -INF))
    plain, (of_log, at_zero) = hessians(x, y[:2], y[2:])
    for ((xx, xt), (tx, tt)), expected in zip(plain, (1 / 0.3, 0.0), strict=True):
        assert (xx, xt, tx) == (0, -1, -1)
        np.testing.assert_allclose(tt, expected, rtol=1e-6)
    (xx, xt), (tx, tt) = of_log
    np.testing.assert_allclose([xt, tx], -np.exp(-1.2), rtol=1e-6)
    np.testing.assert_allclose(tt, np.exp(-1.2) * (-1.2 + 1 + 2), rtol=1e-6)
    assert all(h == 0 for row in at_zero for h in row)


@pytest.mark.parametrize("log_target", [False, True])
def test_through_softmax(log_target):
    """Masked classes and saturated logits, where PyTorch's gradients are nan."""
    of_teacher = jax.nn.log_softmax if log_target else jax.nn.softmax

    def loss(student, teacher):
        log_q, target = jax.nn.log_softmax(student), of_teacher(teacher)
        return kl_div(log_q, target, reduction="sum", log_target=log_target)

    rows = [
        ([200.0, 0.0, -50.0], [150.0, 0.0, 30.0]),
        ([1000.0, 0.0, -1000.0], [0.0, 0.0, 0.0]),
        ([1.0, 0.0, -INF], [0.0, 0.5, -INF]),
    ]
    teacher, student = np.array(rows, "f4").swapaxes(0, 1)
    slopes = jax.vmap(jax.value_and_grad(loss, (0, 1)))
    found = quick(lambda *x: (slopes(*x), kl_divergence(*x[::-1])))(student, teacher)
    (value, (grad_s, grad_t)), expected = found
    assert value[0] == 0
    np.testing.assert_array_equal(grad_s[0], 0)
    np.testing.assert_array_equal(grad_t[0], 0)

    np.testing.assert_allclose(value[1], np.log(3), rtol=1e-6)
    np.testing.assert_allclose(grad_s[1], [-2 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(grad_t[1], 0)

    np.testing.assert_allclose(value[2], expected[2], rtol=1e-6)


def test_is_a_value():
    loss = KLDivLoss(reduction="batchmean", log_target=True)
    assert loss == KLDivLoss(None, None, "batchmean", True)
    assert hash(loss) == hash(pickle.loads(pickle.dumps(loss)))
    assert repr(loss) == "KLDivLoss(reduction='batchmean', log_target=True)"
    with pytest.raises(AttributeError):
        loss.reduction = "sum"
    with pytest.warns(DeprecationWarning, match="reduction='sum'"):
        assert KLDivLoss(size_average=False) == KLDivLoss(reduction="sum")


def test_table_is_what_torch_computes_here():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.__version__.startswith("2.13"):
        pytest.skip(f"the table is of torch 2.13, this is {torch.__version__}")
    import record_torch  # imports torch

    live = json.loads(json.dumps(list(record_torch.table())))
    assert len(live) == len(RECORDED["cases"])
    for found, recorded in zip(live, RECORDED["cases"], strict=True):
        for key in ("name", "dtype", "kwargs"):
            assert found[key] == recorded[key]
        for key in ("input", "target", "value", "module", "grad_input", "grad_target"):
            a = unpacked(found[key], found["dtype"])
            b = unpacked(recorded[key], found["dtype"])
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
