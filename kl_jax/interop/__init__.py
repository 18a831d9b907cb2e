"""Closed forms for the distributions of NumPyro, TensorFlow Probability and Distrax.

`register_numpyro()`, `register_tfp()` and `register_distrax()` make that library's own
`kl_divergence` use `kl_jax.parametric`, whose values keep their relative digits where p and
q are nearly equal. `kl_between(p, q)` changes nothing, and says what it used.

None of these libraries is imported before it is called for. The extra `interop` installs
all three.
"""

from kl_jax.interop._between import kl_between as kl_between
from kl_jax.interop._rules import KLBetween as KLBetween
from kl_jax.interop.distrax import register_distrax as register_distrax
from kl_jax.interop.numpyro import register_numpyro as register_numpyro
from kl_jax.interop.tfp import register_tfp as register_tfp

__all__ = [
    "KLBetween",
    "kl_between",
    "register_distrax",
    "register_numpyro",
    "register_tfp",
]
