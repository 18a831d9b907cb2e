"""Every refusal: the type of the error, and that its message names, from its first word,
the public function, the argument, what was expected and what was found. At trace time: each
call is tried eagerly, under `jit`, and without the assertions of chex.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from programs import quick

import kl_jax
from kl_jax import (
    Weighted,
    batchmean,
    generalized_kl,
    kl_divergence,
    kl_divergence_from_probs,
    kl_estimate,
    kl_from_counts,
    kl_from_densities,
    kl_from_samples,
    linear_kl_divergence,
    masked,
    mean,
    parametric,
    rel_entr,
    reverse,
    tempered,
    topk_kl_divergence,
    weighted,
)
from kl_jax import sum as sum_

A = np.zeros((4, 3), np.float32)
PARAMETRIC = [name for name in vars(parametric) if callable(getattr(parametric, name))]
ROWS = (kl_divergence, kl_divergence_from_probs)
PAIRS = (rel_entr, generalized_kl, *ROWS, kl_estimate)
NAMES = {
    rel_entr: ("p", "q"),
    generalized_kl: ("p", "q"),
    kl_divergence: ("logits_p", "logits_q"),
    kl_divergence_from_probs: ("p", "q"),
    kl_estimate: ("log_p", "log_q"),
}


def raises(error, pattern):
    """With a message that begins so: no words of another library before ours."""
    return pytest.raises(error, match=f"^(?:{pattern})")


def refuses(error, pattern, function, *args, **kwargs):
    """Eagerly, and traced: arrays become tracers, everything else stays static."""
    with raises(error, pattern):
        function(*args, **kwargs)

    arrays = {i: x for i, x in enumerate(args) if isinstance(x, (np.ndarray, jax.Array))}
    named = {k: x for k, x in kwargs.items() if isinstance(x, (np.ndarray, jax.Array))}

    def traced(arrays, named):
        return function(
            *(arrays.get(i, x) for i, x in enumerate(args)), **{**kwargs, **named}
        )

    with raises(error, pattern):
        jax.jit(traced)(arrays, named)

    # Nor is anything accepted where the assertions of chex are switched off.
    chex.disable_asserts()
    try:
        with raises(error, pattern):
            function(*args, **kwargs)
    finally:
        chex.enable_asserts()


@pytest.mark.parametrize("function", PAIRS)
def test_shapes_must_be_equal(function):
    first, second = NAMES[function]
    for shape in ((4, 1), (3,), (3, 4), ()):
        refuses(
            ValueError,
            rf"{function.__name__}: {second} must have the shape of {first}, "
            rf"\(4, 3\), found \({', '.join(map(str, shape))}",
            function,
            A,
            np.zeros(shape, np.float32),
        )


@pytest.mark.parametrize("function", PAIRS)
@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.complex64])
def test_arguments_must_be_floating_point(function, dtype):
    for place, name in enumerate(NAMES[function]):
        args = [A, A]
        args[place] = A.astype(dtype)
        refuses(
            TypeError,
            rf"{function.__name__}: {name} must be floating point, "
            rf"found dtype {np.dtype(dtype)}",
            function,
            *args,
        )


@pytest.mark.parametrize("function", PAIRS)
@pytest.mark.parametrize("value", [[0.5, 0.5], (0.5, 0.5), "0.5", None])
def test_arguments_must_be_arrays(function, value):
    name = NAMES[function][1]
    refuses(
        TypeError,
        f"{function.__name__}: {name} must be an array, found {type(value).__name__}",
        function,
        A,
        value,
    )


@pytest.mark.parametrize("function", ROWS)
def test_axis(function):
    for axis in (2, -3, 5, (0, 5)):
        refuses(
            ValueError,
            rf"{function.__name__}: axis must lie in \[-2, 2\) for shape \(4, 3\), found",
            function,
            A,
            A,
            axis=axis,
        )
    for axis in ((0, 0), (1, -1), ()):
        pattern = rf"{function.__name__}: axis must name at least one axis, and none twice"
        refuses(ValueError, pattern, function, A, A, axis=axis)
    for axis in ("vocab", 1.0, None, True, (0, "x")):
        pattern = rf"{function.__name__}: axis must be an integer or a tuple of integers"
        refuses(TypeError, pattern, function, A, A, axis=axis)
    scalar = np.float32(0)
    with raises(
        ValueError, rf"{function.__name__}: axis must lie in \[0, 0\) for shape \(\)"
    ):
        function(scalar, scalar)


@pytest.mark.parametrize("function", ROWS)
def test_there_must_be_an_outcome(function):
    none = np.zeros((4, 0), np.float32)
    pattern = rf"{function.__name__}: there must be at least one outcome along axis"
    refuses(ValueError, pattern, function, none, none)
    refuses(ValueError, pattern, function, none, none, axis=(0, 1))


@pytest.mark.parametrize("function", ROWS)
def test_where(function):
    name = function.__name__
    for dtype in (np.float32, np.int32):
        pattern = rf"{name}: where must be boolean, found dtype {np.dtype(dtype)}"
        refuses(TypeError, pattern, function, A, A, where=np.ones((4, 3), dtype))
    for shape in ((4,), (3,), (4, 2), (1, 4, 3)):
        pattern = rf"{name}: where must have the rank .* expected \(4, 3\), found"
        refuses(ValueError, pattern, function, A, A, where=np.ones(shape, bool))
    refuses(TypeError, f"{name}: where must be an array", function, A, A, where=[True])


def test_a_row_mask_is_no_where_even_if_the_numbers_agree():
    # optax takes a [4] mask for the classes of [4, 4] logits.
    square = np.zeros((4, 4), np.float32)
    pattern = r"kl_divergence: where must have the rank .* expected \(4, 4\), found \(4,\)"
    refuses(ValueError, pattern, kl_divergence, square, square, where=np.ones(4, bool))


def first_column(x, y):
    """Values of rows, and nothing to compile."""
    return x[:, 0]


def test_mask():
    loss = mean(masked(first_column))
    for shape in ((4, 3), (3,), (), (4, 1), (1,)):
        refuses(
            ValueError,
            r"masked: mask must have the shape of values, \(4,\), found",
            loss,
            A,
            A,
            mask=np.ones(shape, bool),
        )
    for dtype in (np.float32, np.int32):
        refuses(
            TypeError,
            rf"masked: mask must be boolean .*found dtype {np.dtype(dtype)}",
            loss,
            A,
            A,
            mask=np.ones(4, dtype),
        )
    refuses(TypeError, "masked: mask must be an array", loss, A, A, mask=[True] * 4)
    pattern = r"masked\(kl_divergence\): the argument mask is missing, write masked\("
    refuses(TypeError, pattern, mean(masked(kl_divergence)), A, A)


def test_weights():
    loss = mean(weighted(first_column))
    for shape in ((4, 3), (3,), ()):
        refuses(
            ValueError,
            r"weighted: weights must have the shape of values, \(4,\), found",
            loss,
            A,
            A,
            weights=np.ones(shape, np.float32),
        )
    pattern = r"weighted\(first_column\): the argument weights is missing, write weighted\("
    refuses(TypeError, pattern, loss, A, A)
    for dtype in (np.bool_, np.complex64):
        refuses(
            TypeError,
            rf"weighted: weights must be real numbers .*found dtype {np.dtype(dtype)}",
            loss,
            A,
            A,
            weights=np.ones(4, dtype),
        )


def test_arrays_of_something_else():
    for value in (np.array(["a"]), np.array([None])):
        pattern = "rel_entr: p must be an array of numbers, found dtype"
        with raises(TypeError, pattern):
            rel_entr(value, A)


def test_weights_of_weighted():
    one = np.float32(1)
    for weights, error, found in (
        ([1.0], TypeError, "must be an array, found list"),
        (None, TypeError, "must be an array, found NoneType"),
        (A + 1j, TypeError, "must be real numbers .* found dtype complex64"),
        (A[0], ValueError, r"must have the shape of values, \(4, 3\), found \(3,\)"),
    ):
        refuses(error, f"mean: weights {found}", mean(lambda w=weights: Weighted(A, w)))
    assert quick(mean(lambda x: Weighted(x, x)))(one) == 1


@pytest.mark.parametrize("transform", [sum_, mean, batchmean, masked, weighted, reverse])
def test_only_functions_are_transformed(transform):
    pattern = f"{transform.__name__}: the argument to transform must be a function, found"
    with raises(TypeError, pattern):
        transform(A)
    with raises(TypeError, "tempered: the argument to transform"):
        tempered(A, 2.0)


@pytest.mark.parametrize("transform", [sum_, mean, batchmean, masked, weighted, reverse])
def test_a_value_is_no_function(transform):
    name = transform.__name__
    pattern = rf"{name}: .* found ArrayImpl\. Write {name}\(f\)\(\.\.\.\) for {name}\(f\("
    with raises(TypeError, pattern):
        transform(jnp.ones(3))


# Of what is public, the functions of two logits, and other functions of p and q.
OF_LOGITS = {row.of_kl_jax.__name__ for row in registry.DIVERGENCES.values()}
OF_LOGITS.add("jensen_shannon_distance")
OF_P_AND_Q = {
    *("rel_entr", "generalized_kl", "kl_divergence_from_probs"),
    *("kl_estimate", "kl_from_counts", "kl_from_samples"),
    *("bernoulli", "bernoulli_logits", "chi2", "continuous_bernoulli"),
    *("continuous_bernoulli_logits", "dirichlet", "exponential", "geometric"),
    *("half_normal", "poisson"),
}
TRANSFORMS = {
    *("checked", "reverse", "tempered", "mean", "batchmean", "masked", "weighted")
}
FUNCTIONS = {
    name: getattr(module, name)
    for module in (kl_jax, parametric)
    for name in (kl_jax.__all__ if module is kl_jax else PARAMETRIC)
    if inspect.isfunction(getattr(module, name)) and name not in TRANSFORMS
}


@pytest.mark.parametrize("name", [*FUNCTIONS, "KLDivLoss"])
def test_functions_that_are_not_of_two_logits_are_not_tempered(name):
    function = kl_jax.KLDivLoss() if name == "KLDivLoss" else FUNCTIONS[name]
    forms = [function, jax.jit(function), functools.partial(function)]
    if name in OF_LOGITS:
        for form in forms:
            tempered(form, 2.0)
            tempered(reverse(mean(form)), 2.0)
        return
    for form in forms:
        with raises(TypeError, "tempered: the function to transform must .* found .*Write"):
            tempered(form, 2.0)


@pytest.mark.parametrize("name", [*FUNCTIONS, "KLDivLoss"])
def test_functions_that_are_not_of_p_and_q_are_not_reversed(name):
    function = kl_jax.KLDivLoss() if name == "KLDivLoss" else FUNCTIONS[name]
    if name in OF_LOGITS | OF_P_AND_Q:
        reverse(function)
        return
    pattern = rf"reverse: the function to transform must have exactly .* found .*{name}\("
    with raises(TypeError, pattern):
        reverse(function)


@pytest.mark.parametrize("function", [lambda a: a, lambda a, b, c: a, lambda: 0])
def test_functions_of_another_number_of_parameters(function):
    for transform in (reverse, lambda f: tempered(f, 2.0)):
        with raises(TypeError, r"\w+: the function to transform must have exactly two"):
            transform(function)


def test_what_to_write_in_the_place_of_tempered():
    pattern = r"tempered: .* Write linear_kl_divergence\(\.\.\., temperature=T\)"
    with raises(TypeError, pattern):
        tempered(linear_kl_divergence, 2.0)
    pattern = r"tempered: .* must take logits, found rel_entr\(p, q\)\. .*kl_divergence"
    with raises(TypeError, pattern):
        tempered(rel_entr, 2.0)


def test_a_keyword_is_added_once():
    for transform, name in ((masked, "mask"), (weighted, "weights")):
        pattern = f"{transform.__name__}: the function to transform takes {name}= already"
        with raises(ValueError, pattern):
            transform(transform(kl_divergence))


@pytest.mark.parametrize("reduce", [sum_, mean])
def test_axis_of_a_reduction(reduce):
    loss = reduce(first_column, axis=1)
    pattern = rf"{reduce.__name__}: axis must lie in \[-1, 1\) for shape \(4,\), found 1"
    refuses(ValueError, pattern, loss, A, A)


@pytest.mark.parametrize("transform", [sum_, mean, batchmean, masked])
def test_result_of_a_transformed_function(transform):
    kwargs = {"mask": np.ones(4, bool)} if transform is masked else {}
    pattern = f"{transform.__name__}: the transformed function's result must be"
    for result, found in ((A[:, 0] + 0j, "dtype complex64"), ({"loss": 1}, "dict")):
        refuses(TypeError, f"{pattern}.*{found}", transform(lambda r=result: r), **kwargs)


@pytest.mark.parametrize(
    "temperature", [0, 0.0, -1, np.inf, np.nan, np.float32(0), 1e300, 10**400, 1e-50]
)
def test_temperature_must_be_positive(temperature):
    with raises(ValueError, "tempered: temperature must be finite and > 0"):
        tempered(kl_divergence, temperature)


def test_temperature_must_be_a_number_or_a_0d_array():
    for temperature in ("2", None, True, 1j):
        with raises(TypeError, "tempered: temperature must be a number"):
            tempered(kl_divergence, temperature)
    with raises(TypeError, "tempered: temperature must be floating point"):
        tempered(kl_divergence, jnp.array(2))
    pattern = r"tempered: temperature must be a number or a 0-d array, found shape \(4,\)"
    with raises(ValueError, pattern):
        tempered(kl_divergence, jnp.ones(4))


def test_tempered_arguments_and_result():
    loss = tempered(kl_divergence, 2.0)
    pattern = "tempered: logits_q must be floating point, found dtype int32"
    refuses(TypeError, pattern, loss, A, A.astype(np.int32))
    outside = tempered(masked(first_column), 2.0)
    pattern = "tempered: the transformed function's result must be an array.*Weighted"
    refuses(TypeError, pattern, outside, A, A, mask=np.ones(4, bool))


@pytest.mark.parametrize(
    "transform",
    [
        jax.jit,
        jax.grad,
        jax.vmap,
        lambda f: functools.partial(jax.jvp, f, (A, A[:, :1])),
        lambda f: jax.jit(
            jax.shard_map(
                f,
                mesh=jax.make_mesh((4,), ("x",), devices=jax.devices()[:4]),
                in_specs=jax.P(),
                out_specs=jax.P(),
            )
        ),
    ],
    ids=["jit", "grad", "vmap", "jvp", "shard_map"],
)
def test_refused_under_every_transform(transform):
    transformed = transform(kl_divergence)
    args = ((A, A[:, :1]),) if isinstance(transformed, functools.partial) else (A, A[:, :1])
    with raises(ValueError, "kl_divergence: logits_q must have the shape"):
        transformed(*args)


def test_scalars_and_numpy_arrays_are_arrays():
    of = lambda p, q: jax.eval_shape(lambda: rel_entr(p, q)).dtype
    assert rel_entr(0.5, 0.25).dtype == of(0.5, 0.25) == jnp.float32
    assert of(np.float64(0.5), np.float16(0.25)) == jnp.float32
    with jax.enable_x64(True):
        assert of(np.float64(0.5), np.float16(0.25)) == jnp.float64
        assert of(0.5, np.float32(0.25)) == jnp.float32
        assert of(0.5, 0.25) == jnp.float64
        mixed = jax.grad(lambda p, q: rel_entr(p, q), (0, 1))
        found = jax.eval_shape(mixed, np.float64(0.5), np.float32(0.25))
        assert [g.dtype for g in found] == [jnp.float64, jnp.float32]


@pytest.mark.parametrize("function", ROWS)
def test_axis_name(function):
    name = function.__name__
    pattern = rf"{name}: axis_name must name axes of the shard_map or vmap .* found 'vocab'"
    refuses(ValueError, pattern, function, A, A, axis_name="vocab")
    refuses(
        ValueError, f"{name}: axis_name must name", function, A, A, axis_name=("a", "b")
    )


def test_axis_name_of_the_heads():
    log_p, index = A[:, :2] - 2, np.zeros((4, 2), np.int32)
    pattern = "topk_kl_divergence: axis_name must name"
    refuses(ValueError, pattern, topk_kl_divergence, log_p, index, A, axis_name="vocab")
    pattern = "linear_kl_divergence: axis_name must name"
    refuses(ValueError, pattern, linear_kl_divergence, A, A.T, A, A.T, axis_name="vocab")


def test_stored_teachers_have_an_axis():
    scalar, index = np.zeros((), np.float32), np.zeros((), np.int32)
    pattern = "topk_kl_divergence: topk_log_p must have at least one axis, found shape"
    refuses(ValueError, pattern, topk_kl_divergence, scalar, index, A[0])


def test_linear_heads():
    name = "linear_kl_divergence"
    x = [np.zeros(s, np.float32) for s in ((4, 3), (3, 9), (4, 2), (2, 9))]

    def refused(error, pattern, place=None, value=None, **keywords):
        args = [value if i == place else z for i, z in enumerate(x)]
        refuses(error, f"{name}: {pattern}", linear_kl_divergence, *args, **keywords)

    pattern = (
        r"hidden_q must have the shape of hidden_p but .* expected \(4, 'any'\), found"
    )
    refused(ValueError, pattern, 2, np.zeros((5, 2), np.float32))
    pattern = r"weights_p must have two axes, .* hidden_p, expected \(3, 'any'\), found"
    refused(ValueError, pattern, 1, np.zeros((9, 3), np.float32))
    refused(ValueError, "weights_q must have two axes", 3, np.zeros(9, np.float32))
    pattern = r"weights_q must have shape \(2, 9\), found \(2, 8\)"
    refused(ValueError, pattern, 3, np.zeros((2, 8), np.float32))
    refused(TypeError, "weights_q must be floating point", 3, np.zeros((2, 9), np.int32))
    pattern = r"bias_q must have shape \(9,\), found \(8,\)"
    refused(ValueError, pattern, bias_q=np.zeros(8, np.float32))
    refused(TypeError, "bias_p must be floating point", bias_p=np.zeros(9, np.int32))
    refused(ValueError, "temperature must be", temperature=0.0)
    refused(ValueError, "softcap_p must be finite and > 0", softcap_p=-1.0)
    refused(TypeError, "softcap_q must be a number", softcap_q="5")
    refused(ValueError, "block must be > 0, found 0", block=0)
    refused(TypeError, "block must be an integer, found 1.5", block=1.5)
    scalar = np.zeros((), np.float32)
    refused(ValueError, "hidden_p must have at least one axis, found shape", 0, scalar)
    refused(ValueError, "hidden_q must have the shape of hidden_p", 2, scalar)
    pattern = f"{name}: hidden_q must have the shape of hidden_p"
    refuses(ValueError, pattern, linear_kl_divergence, x[0][0], x[1], scalar, x[3])
    none = [np.zeros(s, np.float32) for s in ((4, 3), (3, 0), (4, 2), (2, 0))]
    pattern = f"{name}: there must be at least one outcome"
    refuses(ValueError, pattern, linear_kl_divergence, *none)


def test_estimator_is_one_of_three():
    pattern = "kl_estimate: estimator must be one of 'k1', 'k2', 'k3', found 'k4'"
    refuses(ValueError, pattern, kl_estimate, A, A, estimator="k4")


def test_samples():
    def refused(error, pattern, x=A, y=A, **keywords):
        refuses(error, f"kl_from_samples: {pattern}", kl_from_samples, x, y, **keywords)

    expected = (
        r"must have shape \[samples, dimensions\], with at least one dimension, found"
    )
    for shape in ((4,), (), (2, 4, 3), (4, 0)):
        z = np.zeros(shape, np.float32)
        found = ", ".join(map(str, shape))
        refused(ValueError, rf"x {expected} \({found}", x=z)
        refused(ValueError, rf"y {expected} \({found}", y=z)
    refused(ValueError, "y must have the dimensions of x, 3, found 2", y=A[:, :2])
    refused(ValueError, "x must have at least 5 samples for k=4, found 4", k=4)
    refused(ValueError, "y must have at least 3 samples for k=3, found 2", y=A[:2], k=3)
    refused(ValueError, "y must have at least 1 samples for k=1, found 0", y=A[:0])
    refused(ValueError, "k must be > 0, found 0", k=0)
    refused(TypeError, "k must be an integer, found 1.0", k=1.0)
    refused(TypeError, "x must be floating point, found dtype int32", x=A.astype(np.int32))
    refused(TypeError, "y must be an array, found list", y=[[0.0]])


def test_counts():
    def refused(error, pattern, *args, **keywords):
        refuses(error, f"kl_from_counts: {pattern}", kl_from_counts, *args, **keywords)

    for shape in ((4, 1), (3,), ()):
        z = np.zeros(shape, np.float32)
        refused(ValueError, "counts_q must have the shape of counts_p", A, z)
    scalar = np.float32(1)
    pattern = "kl_from_counts: counts_p must have at least one axis"
    with raises(ValueError, pattern):
        kl_from_counts(scalar, scalar)
    refused(ValueError, "there must be at least one outcome", A[:, :0], A[:, :0])
    for kind in (np.bool_, np.complex64):
        found = f"must be real numbers, found dtype {np.dtype(kind)}"
        refused(TypeError, f"counts_p {found}", A.astype(kind), A)
    refused(TypeError, "counts_q must be an array, found list", A[0], [1, 2, 3])
    for value in (-0.5, np.inf, np.nan, 1e39):
        pattern = "pseudocount must be finite and >= 0 in float32, found"
        refused(ValueError, pattern, A, A, pseudocount=value)
    for value in ("1", None, True):
        refused(TypeError, "pseudocount must be a number", A, A, pseudocount=value)


def test_densities():
    flat = lambda x: -x

    def refused(error, pattern, p=flat, q=flat, low=0, high=1, **keywords):
        pattern = f"kl_from_densities: {pattern}"
        refuses(error, pattern, kl_from_densities, p, q, low, high, **keywords)

    refused(TypeError, "log_p must be a function, found float", p=0.5)
    refused(TypeError, "log_q must be a function, found str", q="x")
    refused(ValueError, r"low must be a number or a 0-d array, found shape \(4, 3\)", low=A)
    refused(ValueError, r"high must be a number or a 0-d array", high=A[0])
    for value, found in (
        (None, "be an array"),
        (True, "be floating point or of an integer type"),
        ("1", "be an"),
    ):
        refused(TypeError, f"high must {found}", high=value)
    for order in (4, 512, 3, 1):
        refused(ValueError, f"order must be odd and at least 5, found {order}", order=order)
    refused(ValueError, "order must be > 0, found -5", order=-5)
    refused(TypeError, "order must be an integer, found 51.0", order=51.0)
    refused(TypeError, "with_error must be a bool, found 1", with_error=1)
    pattern = "the result of log_p must be an array, found list"
    refused(TypeError, pattern, p=lambda x: [x])
    pattern = "the result of log_q must be floating point, found dtype int32"
    refused(TypeError, pattern, q=lambda x: jnp.int32(0))
    pattern = r"the result of log_q must have the shape of the result of log_p, \(\), found"
    refused(ValueError, pattern, q=lambda x: jnp.stack([x, x]))
    pattern = "points must be a sequence of numbers or an array with one axis, found shape"
    refused(ValueError, rf"{pattern} \(\)", points=0.5)
    refused(ValueError, rf"{pattern} \(4, 3\)", points=A)
    pattern = r"points\[1\] must be a number or a 0-d array, found shape \(3,\)"
    refused(ValueError, pattern, points=[0.5, A[0]])
    refused(TypeError, r"points\[0\] must be an", points=["1"])
    refused(TypeError, "points must be an", points="1")


# --- parametric ------------------------------------------------------------------

MATRICES = {
    "multinomial": {"total_count": (4,)},
    "von_mises_fisher": {"concentration": (4,)},
    "wishart": {"df": (4,), "scale_tril": (4, 3, 3)},
    "inverse_wishart": {"df": (4,), "scale_tril": (4, 3, 3)},
    "matrix_normal": {
        "loc": (4, 2, 3),
        "scale_tril_row": (4, 2, 2),
        "scale_tril_column": (4, 3, 3),
    },
    "multivariate_normal": {"scale_tril": (4, 3, 3), "loc": (4, 3)},
    "low_rank_multivariate_normal": {
        "cov_factor": (4, 3, 2),
        "loc": (4, 3),
        "cov_diag": (4, 3),
    },
}


def shapes_of(name):
    """Those of the parameters that are accepted, by name."""
    found = {}
    for parameter in inspect.signature(getattr(parametric, name)).parameters:
        of_one = parameter.removesuffix("_p").removesuffix("_q")
        found[parameter] = MATRICES.get(name, {}).get(of_one, (4, 3))
    return found


@pytest.mark.parametrize("name", PARAMETRIC)
def test_parameters_have_shapes_that_broadcast_and_are_numbers(name):
    function, shapes = getattr(parametric, name), shapes_of(name)
    good = {key: np.full(shape, 0.5, np.float32) for key, shape in shapes.items()}
    jax.eval_shape(function, *good.values())
    for key, shape in shapes.items():
        bad = {**good, key: np.full((*shape[:-1], 7), 0.5, np.float32)}
        found = ", ".join(map(str, (*shape[:-1], 7)))
        expected = (
            r"[\w ]+ must" if name in MATRICES else rf".* must have .* {key} \({found}\)"
        )
        pattern = f"parametric.{name}: {expected}"
        refuses(ValueError, pattern, function, *bad.values())
        bad = {**good, key: np.full((5, *shape[1:]), 0.5, np.float32)}
        what = "batch axes" if name in MATRICES else "shapes"
        pattern = (
            rf"parametric.{name}: the arguments must have {what} that broadcast, found"
        )
        refuses(ValueError, rf"{pattern} .*{key} \(5,", function, *bad.values())
        bad = {**good, key: np.full(shape, True)}
        pattern = f"parametric.{name}: {key} must be floating point or of an integer type"
        refuses(TypeError, pattern, function, *bad.values())


def test_parameters_of_vectors_and_matrices():
    one, eye = np.ones(2, np.float32), np.eye(2, dtype=np.float32)
    for name, args, pattern in (
        ("dirichlet", (1.0, 2.0), "concentration_p must have at least one axis"),
        ("dirichlet", (one[:0], 2.0), "there must be at least one outcome"),
        (
            "multivariate_normal_diag",
            (0.0, 1.0, 0.0, 1.0),
            "loc_p must have at least one axis",
        ),
        (
            "multivariate_normal",
            (0.0, one, 0.0, one),
            "scale_tril_p must be matrices along the last two axes",
        ),
        (
            "multivariate_normal",
            (0.0, eye[:1], 0.0, eye[:1]),
            "scale_tril_p must be square along the last two axes",
        ),
        (
            "multivariate_normal",
            (np.ones(3, np.float32), eye, 0.0, eye),
            r"loc_p must have a last axis of 2, or of 1, found \(3,\)",
        ),
        (
            "multivariate_normal",
            (0.0, eye, 0.0, np.eye(3, dtype=np.float32)),
            r"scale_tril_q must have the last two axes of scale_tril_p, \(2, 2\), found",
        ),
        (
            "multinomial",
            (3, 0.5, 3, one),
            r"probs_p must have shape \[..., k\], with axes of any length, found \(\)",
        ),
        (
            "wishart",
            (2.0, eye, 2.0, eye[:1]),
            r"scale_tril_q must have shape \[..., d, d\], with d = 2, found \(1, 2\)",
        ),
        (
            "matrix_normal",
            (eye, eye, eye[:1, :1], eye, eye, eye),
            r"scale_tril_column_p must have shape \[..., m, m\], with n = 2, m = 2, found",
        ),
        (
            "von_mises_fisher",
            (one[:1], 1.0, one[:1], 1.0),
            r"mean_direction_p must have at least 2 entries, found \(1,\)",
        ),
        (
            "low_rank_multivariate_normal",
            (0.0, one, 1.0, 0.0, one, 1.0),
            "cov_factor_p must be matrices along the last two axes",
        ),
    ):
        refuses(
            ValueError, f"parametric.{name}: {pattern}", getattr(parametric, name), *args
        )


def test_parameters_may_be_numbers():
    @quick
    def divergences():
        return (
            parametric.normal(0, 1, 1, 2),
            parametric.normal(0.0, 1.0, 1.0, 2.0),
            parametric.normal(0, np.ones(3, np.float32), 1, 2),
            parametric.binomial(np.int32(3), 0.5, np.full(2, 3), 0.25),
            parametric.bernoulli(0.5, 0.25),
        )

    of_integers, of_floats, row, count, one = divergences()
    assert of_integers == of_floats
    np.testing.assert_array_equal(row, of_integers)
    np.testing.assert_allclose(count, 3 * one, rtol=3e-7)
    assert count.dtype == np.float32


def test_components_of_mixtures():
    shapes = (2, 4), (2, 3), (2, 4, 4), (2, 4, 3)
    four, three, pp, pq = (np.zeros(n, "f4") for n in shapes)
    name = "mixture_kl_approximation"
    f = functools.partial(refuses, ValueError)
    g = kl_jax.mixture_kl_approximation
    swapped = np.swapaxes(pq, 1, 2)
    f(rf"{name}: distances_pq must have shape \(2, 4, 3\)", g, four, three, pp, swapped)
    f(rf"{name}: distances_pp must have shape \(2, 4, 4\)", g, four, three, pq, pq)
    f(rf"{name}: log_weights_q must have the shape of", g, four, three[0], pp, pq)
    f(rf"{name}: log_weights_p must have at least one axis", g, pq[0, 0, 0], three, pp, pq)
    f(rf"{name}: there must be at least one", g, four, three[:, :0], pp, pq[..., :0])
    name, g = "mixture_kl_upper_bound", kl_jax.mixture_kl_upper_bound
    f(rf"{name}: kl_pq must have shape \(2, 4, 3\), found", g, four, three, swapped)
    f(rf"{name}: kl_pq must have shape \(2, 4, 3\)", g, four, three, pq[0])
    f(rf"{name}: steps must be > 0, found 0", g, four, three, pq, steps=0)
    pattern = f"{name}: steps must be an integer, found 9.5"
    refuses(TypeError, pattern, g, four, three, pq, steps=9.5)
    pattern = f"{name}: kl_pq must be floating point, found dtype int32"
    refuses(TypeError, pattern, g, four, three, pq.astype("i4"))
