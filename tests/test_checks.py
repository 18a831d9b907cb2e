"""What `checked` refuses, in which words and through which transforms; and that there is
nothing of it where it is not asked for.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from programs import quick

import kl_jax
from kl_jax import (
    KLDivLoss,
    Weighted,
    _checks,
    checked,
    generalized_kl,
    jensen_shannon_divergence,
    kl_div,
    kl_divergence,
    kl_divergence_from_probs,
    kl_estimate,
    linear_kl_divergence,
    masked,
    mean,
    mixture_kl_approximation,
    mixture_kl_upper_bound,
    rel_entr,
    renyi_divergence,
    skew_kl_divergence,
    tempered,
    topk_kl_divergence,
    topk_outcomes,
    weighted,
)

pytestmark = pytest.mark.usefixtures("quickly")  # `checked` is outside of the outermost jit

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 4)).astype("f4")
PROBS = np.asarray(jax.nn.softmax(LOGITS))
LOG_PROBS = np.asarray(jax.nn.log_softmax(LOGITS))
INDEX = np.argsort(LOGITS, -1).astype("i4")[..., :2]
TOP = np.take_along_axis(LOG_PROBS, INDEX, -1)
OF_LOGITS = {"logits_p": LOGITS, "logits_q": LOGITS[::-1]}
OF_PROBS = {"p": PROBS, "q": PROBS[::-1]}
OF_TOP_K = {"topk_log_p": TOP, "topk_index": INDEX, "logits_q": LOGITS}
HEADS = {
    "hidden_p": LOGITS,
    "weights_p": LOGITS[0].T,
    "bias_p": LOGITS[0, :, 0],
    "hidden_q": LOGITS,
    "weights_q": LOGITS[1].T,
    "bias_q": LOGITS[0, :, 1],
    "temperature": np.asarray(2.0, "f4"),
}
OF_COMPONENTS = {"log_weights_p": LOGITS[:, 0], "log_weights_q": LOGITS[:, 1, :3]}
DISTANCES = PROBS[:, [0, 1, 2, 0]]
sum_of_kl_div = functools.partial(kl_div, reduction="sum")
of_log_target = functools.partial(kl_div, reduction="none", log_target=True)
FUNCTIONS = [
    (rel_entr, OF_PROBS),
    (generalized_kl, OF_PROBS),
    *((row.function, OF_LOGITS) for row in registry.MAIN.values()),
    (jensen_shannon_divergence, OF_LOGITS | {"beta": np.asarray(0.3, "f4")}),
    (skew_kl_divergence, OF_LOGITS | {"skew": np.asarray(0.3, "f4")}),
    (renyi_divergence, OF_LOGITS | {"order": np.asarray(0.3, "f4")}),
    (kl_divergence_from_probs, OF_PROBS),
    (kl_estimate, {"log_p": LOG_PROBS, "log_q": LOG_PROBS[::-1]}),
    (topk_kl_divergence, OF_TOP_K),
    (topk_outcomes, OF_TOP_K),
    (linear_kl_divergence, HEADS),
    (
        mixture_kl_approximation,
        OF_COMPONENTS | {"distances_pp": DISTANCES, "distances_pq": DISTANCES[..., :3]},
    ),
    (mixture_kl_upper_bound, OF_COMPONENTS | {"kl_pq": DISTANCES[..., :3]}),
    (sum_of_kl_div, {"input": LOG_PROBS, "target": PROBS}),
    (of_log_target, {"input": LOG_PROBS, "target": LOG_PROBS[::-1]}),
]
LOGIT = ("be finite or -inf", {"nan": np.nan, "inf": np.inf})
MASS = ("be >= 0", {"nan": np.nan, "-0.5": -0.5})
FINITE = ("be finite", {"nan": np.nan, "inf": np.inf, "-inf": -np.inf})
FRACTION = ("be in [0, 1]", {"nan": np.nan, "-0.5": -0.5, "1.5": 1.5})
SCALE = ("be finite and > 0", {"nan": np.nan, "0": 0.0, "-1": -1.0, "inf": np.inf})
EXPECTED = {
    **dict.fromkeys(("logits_p", "logits_q", "log_p", "log_q", "topk_log_p"), LOGIT),
    **dict.fromkeys(("bias_p", "bias_q", "log_weights_p", "log_weights_q"), LOGIT),
    **dict.fromkeys(
        ("distances_pp", "distances_pq"), ("be > -inf", {"nan": np.nan, "-inf": -np.inf})
    ),
    **dict.fromkeys(("hidden_p", "hidden_q", "weights_p", "weights_q"), FINITE),
    **dict.fromkeys(("p", "q", "target", "kl_pq"), MASS),
    "topk_index": ("be in [0, 4)", {"-1": -1, "4": 4}),
    **dict.fromkeys(("temperature", "order"), SCALE),
    **dict.fromkeys(("beta", "skew"), FRACTION),
    "input": ("be a number", {"nan": np.nan}),
    "log target": ("be a number", {"nan": np.nan}),
}
IDS = [getattr(f, "func", f).__name__ + str(i) for i, (f, _) in enumerate(FUNCTIONS)]
each = pytest.mark.parametrize(("f", "arguments"), FUNCTIONS, ids=IDS)


@pytest.fixture(autouse=True)
def numbered_anew(monkeypatch):
    """JAX before 0.11 numbers the errors of a process on and on, and programs with other
    numbers are not found in the cache.
    """
    if jax.__version_info__ < (0, 11):
        from jax._src import checkify

        monkeypatch.setattr(checkify, "next_code", itertools.count(1).__next__)


def refusal(f, *args, **kwargs):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is what is compared)
        f(*args, **kwargs)
    assert caught.value.__cause__ is None
    return str(caught.value)


def conditions_of(f):
    """`checked(jax.jit(f))` without the value, which XLA then does not compile: a tenth of
    the price.
    """
    return checked(jax.jit(lambda *args, **kwargs: (f(*args, **kwargs), None)[1]))


@each
def test_every_argument(f, arguments):
    """Under a jit that has been traced without, and whose trace stays as it was: an effect
    alone would slow every call.
    """
    called = getattr(f, "func", f).__name__
    jitted = jax.jit(f)
    before = jitted.trace(**arguments).jaxpr
    assert not before.effects
    conditions = conditions_of(jitted)
    conditions(**arguments)
    for name in arguments:
        kind = "log target" if f is of_log_target and name == "target" else name
        condition, bad = EXPECTED[kind]
        for shown, value in bad.items():
            array = arguments[name].copy()
            last = tuple(n - 1 for n in array.shape)
            second = tuple(min(1, n - 1) for n in array.shape)
            array[last] = array[second] = value  # the second is the first that is refused
            at = ", ".join(map(str, second)) + ("," if array.ndim == 1 else "")
            message = f"{called}: {name} must {condition}, found {shown} at index ({at})."
            assert refusal(conditions, **{**arguments, name: array}) == message
    assert jitted.trace(**arguments).jaxpr is before


@pytest.mark.parametrize("f", [kl_divergence, generalized_kl, of_log_target])
def test_the_value_is_that_without_checks(f):
    """And calls without stay without, of the jit that was compiled with them as well."""
    arguments = next(arguments for function, arguments in FUNCTIONS if function is f)
    jitted = jax.jit(f)
    good, program = jitted(**arguments), jitted.lower(**arguments).as_text()
    np.testing.assert_array_equal(checked(jitted)(**arguments), good)
    bad = {name: x * np.float32(np.nan) for name, x in arguments.items()}
    refusal(checked(jitted), **bad)
    assert np.isnan(jitted(**bad)).all()
    np.testing.assert_array_equal(jitted(**arguments), good)
    assert jitted.lower(**arguments).as_text() == program


def test_without_jit():
    p, q = PROBS[0, :2]
    expected = generalized_kl(p, q)
    np.testing.assert_array_equal(checked(generalized_kl)(p, q), expected)
    bad = q.copy()
    bad[2] = np.nan
    for y in (bad, jnp.asarray(bad)):
        assert refusal(checked(generalized_kl), p, y) == (
            "generalized_kl: q must be >= 0, found nan at index (2,)."
        )
    generalized_kl(p, bad)


def of_pairs(f):
    """`conditions_of(f)` of two arrays, in the words of `FUNCTIONS`: traced once."""
    names = next(arguments for function, arguments in FUNCTIONS if function is f)
    g = conditions_of(f)
    return lambda x, y, **where: g(**dict(zip(names, (x, y), strict=True)), **where)


def test_minus_infinity_is_a_logit():
    a = np.where(LOGITS > 1, -np.inf, LOGITS).astype("f4")
    of_pairs(kl_divergence)(a, a)
    of_pairs(kl_estimate)(a, a)
    bias = np.array([0, 0, -np.inf], "f4")
    conditions_of(linear_kl_divergence)(**{**HEADS, "bias_p": bias, "bias_q": bias})


@pytest.mark.parametrize("f", [kl_divergence, kl_divergence_from_probs])
def test_outcomes_outside_where_may_hold_anything(f):
    x = LOGITS if f is kl_divergence else PROBS
    where = np.array([True, True, False, True])[None, None].repeat(2, 0)
    x = x / np.sum(x, -1, keepdims=True, where=where) if f is not kl_divergence else x
    x = x.copy()
    x[..., 2] = np.nan
    g = of_pairs(f)
    g(x, x, where=where)
    everywhere = refusal(g, x, x)
    assert everywhere.endswith("found nan at index (0, 0, 2).")
    x[1, 0, 0] = np.nan
    assert refusal(g, x, x, where=where).endswith("found nan at index (1, 0, 0).")


def test_a_row_without_outcomes_has_no_sum():
    where = np.array([True, False])[:, None, None].repeat(4, -1)
    of_pairs(kl_divergence_from_probs)(PROBS, PROBS, where=where)


TOLERANCE = {
    "bfloat16": 2.0**-7 + 2**-11.5,
    "float16": 2.0**-10 + 2**-11.5 + 4 * 2**-25,
    "float32": 2.0**-23 + 2**-11.5,
    "float64": 2.0**-52 + 2**-26,
}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_sum_of_probabilities(dtype):
    """Just inside and just outside of the tolerance that the docstring states."""
    with jax.enable_x64(dtype == "float64"):
        good = np.full((2, 3, 4), 0.25)
        g = of_pairs(kl_divergence_from_probs)
        spacing = max(2 * float(jnp.finfo(dtype).epsneg), 2.0**-24) / 4
        off = TOLERANCE[dtype] // spacing * spacing  # what an entry of 1/4 can show
        for sign in (1, -1):
            near, far = good.copy(), good.copy()
            near[1, 2, 3] += sign * (off - spacing)
            far[1, 2, 3] += sign * (off + 2 * spacing)
            near, far, exact = (x.astype(jnp.dtype(dtype)) for x in (near, far, good))
            g(near, exact)
            wide = jax.eval_shape(kl_divergence_from_probs, near, exact).dtype
            total = np.sum(far[1, 2].astype(wide))
            assert refusal(g, exact, far) == (
                f"kl_divergence_from_probs: q must sum to 1 within {TOLERANCE[dtype]:.2g}, "
                f"found {total:.6g} at index (1, 2, :)."
            )


def test_the_sum_over_other_axes():
    p = np.moveaxis(PROBS, -1, 1)
    g = conditions_of(functools.partial(kl_divergence_from_probs, axis=1))
    g(p, p)
    q = p.copy()
    q[1, :, 2] *= 2
    pattern = "p must sum to 1 within 0.00035, found 2 at index (1, :, 2)."
    assert refusal(g, q, p) == f"kl_divergence_from_probs: {pattern}"
    g = conditions_of(functools.partial(kl_divergence_from_probs, axis=(0, 1, 2)))
    g(p / 6, p / 6)
    assert refusal(g, p, p).endswith("found 6 at index (:, :, :).")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_what_a_softmax_returns_passes(dtype):
    @checked
    @jax.jit
    def look(p, log_p):
        _checks.probabilities("f", "p", p, (1,))
        _checks.part_of_log_probabilities("f", "log_p", log_p)

    def returned(*logits):
        """Of each array of logits the probabilities and the ten likeliest, as teachers."""
        for x in logits:
            p, log_p = (f(x).astype(dtype) for f in (jax.nn.softmax, jax.nn.log_softmax))
            yield p, jax.lax.top_k(log_p, 10)[0]

    logits = []
    # 1 / 131586 is half way between two float16 numbers: the sum of one row is 0.0039 off.
    for outcomes in (10, 131586):
        rng = np.random.default_rng(outcomes)
        scale = np.array([0.0, 0.1, 1.0, 8.0])[:, None]
        x = (rng.normal(size=(4, outcomes)) * scale).astype(jnp.dtype(dtype))
        logits += [x] if dtype == "float32" else [x, x.astype("float32")]
    rows = quick(lambda *x: tuple(returned(*x)))(*logits)
    for x, (p, log_p) in zip(logits, rows, strict=True):
        if dtype == x.dtype == "float16" and x.shape[1] > 65504:
            # e^0 summed that often is inf in float16: all its probabilities are 0.
            assert "found 0 at index (0, :)" in refusal(look, p, log_p)
        else:
            look(p, log_p)


def test_top_k_teachers():
    look = conditions_of(topk_kl_divergence)

    def g(log_p, index):
        look(topk_log_p=log_p, topk_index=index, logits_q=LOGITS)

    index = INDEX.copy()
    index[1, 1, 1] = index[1, 1, 0]
    assert refusal(g, TOP, index) == (
        "topk_kl_divergence: topk_index must not repeat with another log p, found "
        f"{index[1, 1, 0]} at index (1, 1, 1)."
    )
    for place in (0, 1):
        ignored, of_any = TOP.copy(), index.copy()
        ignored[1, 1, place] = -np.inf
        g(ignored, of_any)
        of_any[1, 1, place] = 99
        g(ignored, of_any)
    half = np.log(np.full((2, 3, 2), 0.5, "f4"))
    g(half + np.float32(2e-7), INDEX)
    assert refusal(g, half + np.float32(1e-4), INDEX) == (
        "topk_kl_divergence: topk_log_p must have exponentials of sum <= 1.00000064, found "
        "1.0001 at index (0, 0, :)."
    )
    g((half + 0.01).astype(jnp.bfloat16), INDEX)


def test_through_the_transforms_of_kl_jax():
    bad = LOGITS.copy()
    bad[1, 0, 3] = np.nan
    message = (
        "kl_divergence: logits_p must be finite or -inf, found nan at index (1, 0, 3)."
    )
    keep = np.array([[True, True, True], [False, True, True]])
    loss = conditions_of(mean(masked(tempered(kl_divergence, 2.0))))
    # masked hides the row from the mean, not from the divergence.
    assert refusal(loss, bad, LOGITS, mask=keep) == message
    loss(np.where(keep[..., None], bad, 0), LOGITS, mask=keep)

    loss = conditions_of(mean(weighted(kl_estimate)))
    weights = np.ones(LOGITS.shape, "f4")
    weights[0, 1:] = [[-1], [0]]
    weights[1, 1, 2] = np.inf
    assert refusal(loss, LOGITS, LOGITS, weights=weights) == (
        "weighted: weights must be finite, found inf at index (1, 1, 2)."
    )
    loss(LOGITS, LOGITS, weights=np.where(weights == np.inf, 1, weights))
    loss = conditions_of(mean(lambda x, w: Weighted(x, w)))
    one = np.ones(3, "f4")
    assert refusal(loss, one, one * np.nan) == (
        "mean: weights must be finite, found nan at index (0,)."
    )
    loss = conditions_of(lambda t: tempered(total, t)(LOGITS, LOGITS))
    assert refusal(loss, np.asarray(-1, "f4")) == (
        "tempered: temperature must be finite and > 0, found -1 at index ()."
    )
    loss = conditions_of(KLDivLoss(reduction="batchmean"))
    assert refusal(loss, bad, PROBS).startswith("kl_div: input must be a number, found nan")


def total(a, b):
    return jnp.sum(generalized_kl(a, b))


def over_rows(a, b):
    return jax.lax.scan(lambda c, x: (c + total(*x), None), 0.0, (a, b))[0]


def gradients_in_a_scan(a, b):
    return jax.lax.scan(lambda c, x: (c + jax.grad(total)(*x), None), 0 * a[0], (a, b))[0]


# The conditions of all functions go one way, so a cheap function stands for them, but once:
# kl_divergence has a rule of its own for `vmap`.
WHOLE, INSIDE = "(1, 2, 3)", "(2, 3)"
TRANSFORMED = {
    "grad": (jax.grad(total), WHOLE),
    "hessian": (lambda a, b: jax.jvp(jax.grad(total, 1), (a, b), (b, a)), WHOLE),
    "checkpoint": (jax.grad(jax.checkpoint(total)), WHOLE),
    "jit in jit": (jax.jit(lambda a, b: jax.jit(total)(a, b) + 1), WHOLE),
    "cond": (
        lambda a, b: jax.lax.cond(a[0, 0, 0] < 9, total, lambda a, b: 0.0, a, b),
        WHOLE,
    ),
    "loop": (
        lambda a, b: jax.lax.fori_loop(0, 2, lambda i, c: c + total(a, b), 0.0),
        WHOLE,
    ),
    "vmap": (jax.vmap(kl_divergence), INSIDE),
    "grad of vmap": (jax.grad(lambda a, b: jnp.sum(jax.vmap(total)(a, b))), INSIDE),
    "vmap of grad": (jax.vmap(jax.grad(total)), INSIDE),
    "scan": (over_rows, INSIDE),
    "jvp of scan": (lambda a, b: jax.jvp(over_rows, (a, b), (b, a)), INSIDE),
    "grad in scan": (gradients_in_a_scan, INSIDE),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_through_the_transforms_of_jax(name):
    f, at = TRANSFORMED[name]
    f = jax.jit(f)
    f.lower(PROBS, PROBS)
    bad = PROBS.copy()
    bad[1, 2, 3] = np.nan
    expected = "generalized_kl: q must be >= 0"
    if name == "vmap":
        expected = "kl_divergence: logits_q must be finite or -inf"
    message = f"{expected}, found nan at index {at}."
    whole = name in ("cond", "hessian", "grad in scan")
    g = checked(f) if whole else conditions_of(f)
    assert refusal(g, PROBS, bad) == message
    found = g(PROBS, PROBS[::-1])
    if whole:
        jax.tree.map(np.testing.assert_array_equal, found, f(PROBS, PROBS[::-1]))


def test_reverse_mode_of_a_scan_is_not_checked():
    # As the docstring says; when JAX keeps the checks there, it may say less.
    bad = PROBS * np.nan
    conditions_of(jax.grad(over_rows))(PROBS, bad)
    assert "found nan at index (0, 0)" in refusal(conditions_of(over_rows), PROBS, bad)


def test_shards():
    mesh = jax.make_mesh((4,), ("vocab",), axis_types=(AxisType.Auto,))

    def over_vocab(f, check_vma):
        g = functools.partial(f, axis_name="vocab")
        specs = (P(None, None, "vocab"),) * 2
        g = jax.shard_map(g, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma)
        return conditions_of(g)

    bad = LOGITS.copy()
    bad[1, 2, 3] = np.nan
    f = over_vocab(kl_divergence, check_vma=True)
    f(LOGITS, LOGITS)
    assert refusal(f, LOGITS, bad) == (
        "kl_divergence: logits_q must be finite or -inf, found nan at index (1, 2, 0)."
    )
    bad = PROBS.copy()
    bad[1, 2] *= 1.5
    f = over_vocab(kl_divergence_from_probs, check_vma=False)
    f(PROBS, PROBS)
    assert refusal(f, bad, PROBS) == (
        "kl_divergence_from_probs: p must sum to 1 within 0.00035, found 1.5 at index "
        "(1, 2, :)."
    )


def test_an_explicit_mesh():
    mesh = jax.make_mesh((2, 4), ("rows", "vocab"), axis_types=(AxisType.Explicit,) * 2)
    spec = jax.NamedSharding(mesh, P("rows", None, "vocab"))
    bad = PROBS.copy()
    bad[1, 2, 3] += 1
    index = INDEX.copy()
    index[1, 2, 0] = -3
    with jax.set_mesh(mesh):
        x, y = (jax.device_put(x, spec) for x in (PROBS, bad))
        look = conditions_of(kl_divergence_from_probs)
        look(x, x)
        message = refusal(look, x, y)
        assert message.endswith("found 2 at index (1, 2, :).")
        rows = jax.NamedSharding(mesh, P("rows"))
        top, good, index = (jax.device_put(x, rows) for x in (TOP, INDEX, index))
        look = conditions_of(topk_kl_divergence)
        look(top, good, x)
        message = refusal(look, top, index, x)
        assert message.endswith(
            "topk_index must be in [0, 4), found -3 at index (1, 2, 0)."
        )


def test_compiled_once():
    traced = []

    @jax.jit
    def f(a, b):
        traced.append(1)
        return generalized_kl(a, b)

    for _ in range(2):
        f(PROBS, PROBS)
        checked(f)(PROBS, PROBS)
    assert len(traced) == 2  # once without, once with


def test_it_is_the_outermost():
    pattern = r"checked: it must be the outermost transform, as in checked\(jit\(f\)\)"
    f = checked(jax.jit(total))
    for transformed in (jax.jit(f), jax.grad(f), jax.vmap(f)):
        with pytest.raises(TypeError, match=pattern):
            transformed(PROBS, PROBS)
    with pytest.raises(TypeError, match="checked: the argument to transform must be"):
        checked(LOGITS)


def test_what_it_leaves_alone():
    """Names, keywords, results of any form, and errors about anything else."""
    from_probs_along = jax.jit(kl_divergence_from_probs, static_argnames="axis")
    g = checked(from_probs_along)
    assert g.__name__ == "checked(kl_divergence_from_probs)"
    p = np.moveaxis(PROBS, -1, 1)
    np.testing.assert_array_equal(
        g(p, q=p[::-1], axis=1), from_probs_along(p, p[::-1], axis=1)
    )
    out = checked(jax.jit(weighted(lambda x: x)))(PROBS, weights=np.ones_like(PROBS))
    assert isinstance(out, Weighted)
    with pytest.raises(ValueError, match="kl_divergence_from_probs: axis must lie in"):
        g(PROBS, PROBS, axis=7)
    with pytest.raises(ValueError, match="estimator must be one of"):
        checked(kl_estimate)(LOGITS, LOGITS, estimator="k4")
    f = jax.jit(rel_entr)
    assert float(checked(f)(0.5, 0.25)) == float(f(0.5, 0.25))
    assert refusal(checked(f), 0.5, -0.25).endswith("found -0.25 at index ().")


CONDITIONS = {
    "be a number": (_checks.no_nan, (-np.inf, 0, np.inf), (np.nan,)),
    "be finite": (_checks.all_finite, (-1, 0), (np.nan, np.inf)),
    "be >= 0": (_checks.all_non_negative, (0, np.inf), (np.nan, -1e-30)),
    "be finite and > 0": (_checks.all_positive, (1e-30, 1), (np.nan, -1, 0, np.inf)),
    "be < 3": (
        functools.partial(_checks.inside, contains=lambda x: x < 3, expected="be < 3"),
        (2, -np.inf),
        (3, np.nan),
    ),
}


@checked
@jax.jit
def every_condition(arrays):
    for x, (condition, *_) in zip(arrays, CONDITIONS.values(), strict=True):
        condition("f", "x", x)


@pytest.mark.parametrize("expected", CONDITIONS)
def test_conditions(expected):
    good = [np.resize(x, 4).astype("f4") for _, x, _ in CONDITIONS.values()]
    every_condition(good)
    for value in CONDITIONS[expected][2]:
        arrays = [x.copy() for x in good]
        arrays[list(CONDITIONS).index(expected)][2] = value
        message = f"f: x must {expected}, found {value:.6g} at index (2,)."
        assert refusal(every_condition, arrays) == message


@pytest.mark.parametrize(
    ("name", "good", "bad", "message"),
    [
        (
            *("normal", (0.0, [1.0, 2.0], 0.0, 1.0), (0.0, [1.0, -2.0], 0.0, 1.0)),
            "scale_p must be > 0, found -2 at index (1,).",
        ),
        (
            *("normal", (0.0, [1.0, 2.0], 0.0, 1.0), (np.nan, 1.0, 0.0, 1.0)),
            "loc_p must be finite, found nan at index ().",
        ),
        (
            *("bernoulli", ([0.0, 1.0], 0.5), ([0.0, 1.5], 0.5)),
            "probs_p must be in [0, 1], found 1.5 at index (1,).",
        ),
        (
            *("binomial", (3, 0.5, 3, 0.5), (2.5, 0.5, 3, 0.5)),
            "total_count_p must be a whole number >= 0, found 2.5 at index ().",
        ),
        (
            *("uniform", (0.0, 1.0, 0.0, 2.0), (0.0, 1.0, 0.0, -2.0)),
            "high_q must be above the lower end, found -2 at index ().",
        ),
        (
            *("uniform", (3.0, 5.0, 0.0, 10.0), (5.0, [6.0, 3.0], 0.0, 10.0)),
            "high_p must be above the lower end, found 3 at index (1,).",
        ),
        (
            *(
                "multivariate_normal",
                (0.0, [[1.0, 0.0], [0.0, 1.0]], 0.0, [[1.0, 0.0], [0.0, 1.0]]),
                (0.0, [[1.0, 0.0], [0.0, -3.0]], 0.0, [[1.0, 0.0], [0.0, 1.0]]),
            ),
            "the diagonal of scale_tril_p must be > 0, found -3 at index (1,).",
        ),
        (
            *(
                "multivariate_normal",
                (0.0, [[1.0, 0.0], [0.5, 1.0]], 0.0, [[1.0, 0.0], [0.0, 1.0]]),
                (0.0, [[1.0, 0.0], [0.5, 1.0]], 0.0, [[4.0, 1.0], [1.0, 4.0]]),
            ),
            "scale_tril_q must be a Cholesky factor, 0 above its diagonal; for a "
            "covariance matrix write jnp.linalg.cholesky(covariance), found 1 at index "
            "(0, 1).",
        ),
        (
            *("dirichlet", ([[1.0, 2.0]] * 2, 1.0), ([[1.0, 2.0], [1.0, 0.0]], 1.0)),
            "concentration_p must be > 0, found 0 at index (1, 1).",
        ),
    ],
)
def test_parameters(name, good, bad, message):
    conditions = conditions_of(getattr(kl_jax.parametric, name))
    as_given = lambda row: [x if np.isscalar(x) else np.asarray(x, "f4") for x in row]
    conditions(*as_given(good))
    assert refusal(conditions, *as_given(bad)) == f"parametric.{name}: {message}"
