"""Eight CPU devices, and JAX at its strictest: no implicit promotion of dtypes or ranks."""

import gc
import importlib.util

import jax
import programs
import pytest

# JAX keeps what it traced, and Python's collector would look through all of that again and
# again: 8 % of the time.
gc.set_threshold(100_000, 50, 1000)
jax.config.update("jax_num_cpu_devices", 8)
# pytest has its own way with tracebacks, and a filtered one takes 10 ms for each error.
jax.config.update("jax_traceback_filtering", "off")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


class Doctests:
    """Those of the library compile as in `programs.quickly`: their numbers have four
    digits. This folder's fixtures do not reach them.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        if not isinstance(item, pytest.DoctestItem):
            return (yield)
        with programs.quickly():
            return (yield)


def pytest_configure(config):
    """Nearly all the time goes into compiling: the workers share what they compiled, and
    the next run finds it again. `pytest --cache-clear` removes it.
    """
    config.pluginmanager.register(Doctests())
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    # XLA's own caches put the path of this folder into the keys: in a copy of it, as CI
    # keeps one, none of 44 programs would be found again.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


LIBRARIES = ("distrax", "numpyro", "tensorflow_probability")


@pytest.hookimpl(tryfirst=True)  # before those that are slow are left out
def pytest_collection_modifyitems(items):
    """float64 has the formulas of float32, with constants of its own, and takes an eighth
    of the time. The examples of `cross` are in test_cross.py, too: 29 programs, 15 s. Those
    of `interop` are of other libraries.
    """
    absent = not all(map(importlib.util.find_spec, LIBRARIES))
    without = pytest.mark.skip(reason="not installed: the extra `interop`")
    old = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # at their import
    for item in items:
        if item.nodeid.split("::")[-1].startswith("kl_jax.parametric.cross."):
            item.add_marker(pytest.mark.slow)
        if isinstance(item, pytest.DoctestItem) and ".interop." in item.name:
            item.add_marker(without if absent else old)
        if hasattr(item, "callspec") and item.callspec.params.get("dtype") == "float64":
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both working precisions; float64 is switched on for that test alone."""
    if request.param == "float32":
        yield request.param
    else:
        with jax.enable_x64(True):
            yield request.param


@pytest.fixture(autouse=True)
def traced_once():
    """JAX before 0.11 traces a function inside `jit` without a mesh, and for its derivative
    once more, with an empty one: a fifth of all tracing. Here it is empty from the start.
    """
    if jax.__version_info__ >= (0, 11):
        yield
    else:
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            yield


@pytest.fixture
def quickly():
    """The whole test compiles as in `programs.quickly`."""
    with programs.quickly():
        yield
