"""Eight CPU devices, and JAX at its strictest: no implicit promotion of dtypes or ranks."""

import jax
import programs
import pytest

jax.config.update("jax_num_cpu_devices", 8)
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


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both working precisions; float64 is switched on for that test alone."""
    if request.param == "float32":
        yield request.param
    else:
        with jax.enable_x64(True):
            yield request.param


@pytest.fixture
def quickly():
    """The whole test compiles as in `programs.quickly`."""
    with programs.quickly():
        yield
