"""Definitions in ball arithmetic, for rows as long as a vocabulary.

The definitions of tests/oracles.py, but in Arb (`pip install python-flint`), which is a
hundred times as fast as mpmath and carries a bound of its own error with every number.
Each result is computed with twice the bits until that bound is below 2^-80 of it.
benchmarks/accuracy.py compares a sample with mpmath. Shares no code with kl_jax.

Arguments are rows of floats, taken exactly; -inf is probability 0.
"""

import functools
import math
from fractions import Fraction

import mpmath as mp
from flint import arb, ctx

RELATIVE_BITS = 80
# A divergence of 2^-960 between log-ratios of order 1, and 80 bits of it, need 2000.
PRECISIONS = (256, 512, 1024, 2048, 4096)


def certain(definition):
    """`definition` with enough bits: a number of mpmath right to 2^-80 of itself, inf, or
    a list of balls right to 2^-80 of the largest.
    """

    @functools.wraps(definition)
    def evaluated(a, b, *args):
        a, b = (tuple(float(x) for x in row) for row in (a, b))
        for bits in PRECISIONS:
            with ctx.workprec(bits):
                found = definition(a, b, *args)
                if isinstance(found, float):
                    return found
                balls = found if isinstance(found, list) else [found]
                error = max(x.rad() for x in balls)
                if error <= largest(balls) * arb(2) ** -RELATIVE_BITS:
                    return found if isinstance(found, list) else mpf(found)
                if same(a, b):
                    return [arb(0)] * len(a) if isinstance(found, list) else mp.mpf(0)
        raise ArithmeticError(f"{definition.__name__}: {PRECISIONS[-1]} bits are too few")

    return evaluated


def same(a, b):
    """Whether p = q: the logits differ by one number, exactly."""
    if any((x == -math.inf) != (y == -math.inf) for x, y in zip(a, b, strict=True)):
        return False
    pairs = zip(a, b, strict=True)
    return len({Fraction(x) - Fraction(y) for x, y in pairs if x > -math.inf}) < 2


def outcomes(row):
    return sum(x > -math.inf for x in row)


def largest(balls):
    return max(abs(x).mid() for x in balls)


def of_largest(found, balls):
    """The largest error of a gradient, relative to its largest component."""
    pairs = zip(found.tolist(), balls, strict=True)
    with ctx.workprec(PRECISIONS[0]):
        return float(max(abs(arb(x) - y).mid() for x, y in pairs) / largest(balls))


def mpf(ball):
    mantissa, exponent = ball.mid().man_exp()
    with mp.workprec(PRECISIONS[-1]):
        return mp.ldexp(mp.mpf(int(mantissa)), int(exponent))


def total(terms):
    return sum(terms, arb(0))


def of_last_rows(function):
    """`function` of a row, kept for p and q of the last pair of rows at two precisions.

    All divergences of a pair start from the same numbers, which were half of the work.
    """
    kept = functools.lru_cache(maxsize=4)(lambda row, bits: function(row))
    return functools.wraps(function)(lambda row: kept(row, ctx.prec))


@of_last_rows
def masses(row):
    """e^x; the number 0 where x = -inf."""
    return [arb(x).exp() if x > -math.inf else 0 for x in row]


@of_last_rows
def probabilities(row):
    mass = masses(row)
    size = total(mass)
    return [x / size if x else 0 for x in mass]


def log_ratios(a, b):
    """Log p - log q at each outcome; inf where q = 0 < p, and nothing where p = 0."""
    shift = (total(masses(b)) / total(masses(a))).log()
    for x, y in zip(a, b, strict=True):
        if x == -math.inf:
            yield None
        else:
            yield arb(x) - arb(y) + shift if y > -math.inf else math.inf


@certain
def kl_divergence(a, b):
    """Sum of p (log p - log q); the normalisers taken out of the sum, for speed."""
    if any(x > -math.inf and y == -math.inf for x, y in zip(a, b, strict=True)):
        return math.inf
    mass_p = masses(a)
    size_p, size_q = total(mass_p), total(masses(b))
    terms = zip(mass_p, a, b, strict=True)
    moment = total(mass * (arb(x) - arb(y)) for mass, x, y in terms if mass)
    return moment / size_p + (size_q / size_p).log()


@certain
def gradient_p(a, b):
    """P (log p - log q - KL), where KL is finite."""
    if outcomes(a) < 2:
        return [arb(0) for _ in a]
    p, ratios = probabilities(a), list(log_ratios(a, b))
    value = total(x * r for x, r in zip(p, ratios, strict=True) if x)
    return [x * (r - value) if x else arb(0) for x, r in zip(p, ratios, strict=True)]


@certain
def gradient_q(a, b):
    """The difference q - p."""
    pairs = zip(probabilities(a), probabilities(b), strict=True)
    return [arb(0) + y - x for x, y in pairs]


@certain
def fisher_vector_product(b, direction):
    """The product (diag(q) - q q^T) v, the second derivative of KL in the logits of q."""
    if outcomes(b) < 2:
        return [arb(0) for _ in b]
    q = probabilities(b)
    v = [arb(x) for x in direction]
    mean = total(x * y for x, y in zip(q, v, strict=True))
    return [x * (y - mean) if x else arb(0) for x, y in zip(q, v, strict=True)]


class Arb:
    """What the definitions of `registry` are evaluated in."""

    log, sum = arb.log, staticmethod(total)

    @staticmethod
    def kl(p, q):
        pairs = [(x, y) for x, y in zip(p, q, strict=True) if x]
        if any(not y for _, y in pairs):
            return math.inf
        return total(x * (x / y).log() for x, y in pairs)


def divergence(row, a, b):
    """The value of a row of `registry`."""

    @certain
    def evaluated(a, b):
        parameters = [arb(x) for x in row.parameters.values()]
        value = row.definition(Arb, probabilities(a), probabilities(b), *parameters)
        # A sum of a ball and infinity, as of Jeffreys, is a ball.
        return math.inf if float(value) == math.inf else value

    return evaluated(a, b)
