"""Eight CPU devices, and JAX at its strictest: no implicit promotion of dtypes or ranks."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both working precisions; float64 is switched on for that test alone."""
    if request.param == "float32":
        yield request.param
    else:
        with jax.enable_x64(True):
            yield request.param
