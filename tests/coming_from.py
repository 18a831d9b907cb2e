"""The arrays of docs/coming_from, and what those libraries are that no test runs.

    python tests/coming_from.py     writes coming_from.json

evaluates the other side of each row with PyTorch, TensorFlow Probability and NumPyro.
"""

import json
import pathlib
import re

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
PAGES = sorted((FOLDER.parent / "docs" / "coming_from").glob("[!i]*.md"))
TABLE = FOLDER / "coming_from.json"


def rows():
    """Page, their call and ours, of each row of the tables."""
    for page in PAGES:
        for theirs, ours in re.findall(
            r"^\| `(.+?)` \| `(.+?)` \|", page.read_text(), re.M
        ):
            yield page.stem, theirs, ours


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def arrays():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 5))
    keep = np.array([True, True, False, True, True, False])
    m1, m2 = rng.normal(size=(2, 4))
    s1, s2 = rng.uniform(0.5, 3, size=(2, 4))
    v1, v2 = rng.normal(size=(2, 2))
    t1, t2 = (np.tril(rng.uniform(0.5, 2, size=(2, 2))) for _ in range(2))
    policy, reference = np.log(rng.uniform(0.1, 0.9, size=(2, 2, 3)))
    numbers = {"a": a, "b": b, "m1": m1, "s1": s1, "m2": m2, "s2": s2}
    numbers |= {"v1": v1, "t1": t1, "v2": v2, "t2": t2}
    numbers |= {"policy": policy, "reference": reference}
    shapes = {"h_p": (6, 3), "h_q": (6, 2), "W_p": (3, 5), "W_q": (2, 5)}
    numbers |= {name: rng.normal(size=shape) for name, shape in shapes.items()}
    numbers |= {"p": softmax(a), "q": softmax(b)}
    numbers |= {"log_p": np.log(softmax(a)), "log_q": np.log(softmax(b))}
    numbers = {name: x.astype("float32") for name, x in numbers.items()}
    return numbers | {
        "keep": keep,
        "labels": np.where(keep, 1, -100),
        "mask": np.array([[True, True, True], [True, True, False]]),
        "n1": np.array([3, 5, 2, 8, 1]),
        "n2": np.array([1, 1, 3, 4, 6]),
    }


# --- TRL, verl and Liger: the formulas of their sources, in float64 -----------------------


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def jensen_shannon(p, q, beta):
    """KL(p || q) at beta 0 and KL(q || p) at 1, as TRL and Liger have it."""
    if beta in (0, 1):
        return kl(p, q) if beta == 0 else kl(q, p)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


class GKDTrainer:
    @staticmethod
    def generalized_jsd_loss(student, teacher, labels, beta=0.5, temperature=1.0):
        p, q = (softmax(x.astype("f8") / temperature) for x in (teacher, student))
        return jensen_shannon(p, q, beta)[labels != -100].mean()


class core_algos:  # noqa: N801 - the name of a module
    @staticmethod
    def kl_penalty(policy, reference, kind):
        d = np.clip(reference.astype("f8") - policy, -20, 20)
        k3 = np.clip(np.exp(d) - d - 1, -10, 10)
        return {"kl": -d, "mse": d**2 / 2, "low_var_kl": k3}[kind]

    @staticmethod
    def agg_loss(values, mask, mode):
        values = values.astype("f8") * mask
        if mode == "token-mean":
            return values.sum() / mask.sum()
        sums = values.sum(-1)
        return np.mean(sums / mask.sum(-1) if mode == "seq-mean-token-mean" else sums)


class LigerKLDIVLoss:
    def __init__(self, reduction):
        assert reduction == "batchmean"

    def __call__(self, log_q, p):
        return kl(p.astype("f8"), np.exp(log_q.astype("f8"))).mean()


class LigerJSD:
    def __init__(self, beta):
        self.beta = beta

    def __call__(self, log_q, log_p):
        p, q = (np.exp(x.astype("f8")) for x in (log_p, log_q))
        return jensen_shannon(p, q, self.beta).mean()


class LigerFusedLinearJSD(LigerJSD):
    def __init__(self, jsd_beta):
        super().__init__(jsd_beta)

    def __call__(self, hidden_q, weights_q, hidden_p, weights_p):
        logits = (
            h.astype("f8") @ w.T for h, w in ((hidden_q, weights_q), (hidden_p, weights_p))
        )
        return super().__call__(*(np.log(softmax(x)) for x in logits))


# --- their side --------------------------------------------------------------------


def library(page):
    """The names on a page that are theirs. ImportError where the library is not there."""
    numbers = arrays()
    if page == "pytorch":
        import torch

        numbers = {name: torch.tensor(x) for name, x in numbers.items()}
        return numbers | {
            "torch": torch,
            "F": torch.nn.functional,
            "D": torch.distributions,
        }
    if page == "tfp":
        from tensorflow_probability.substrates import jax as tfp

        return numbers | {"tfd": tfp.distributions}
    if page == "numpyro":
        from numpyro import distributions

        return numbers | {"dist": distributions}
    if page == "optax":
        import jax
        import optax

        numbers = {name: jax.numpy.asarray(x) for name, x in numbers.items()}
        return numbers | {"optax": optax}
    if page == "scipy":
        import scipy.integrate
        import scipy.spatial
        import scipy.special
        import scipy.stats

        f, g = scipy.stats.norm(0, 1).logpdf, scipy.stats.norm(1, 2).logpdf
        return numbers | {"scipy": scipy, "np": np, "f": f, "g": g}
    names = (GKDTrainer, core_algos, LigerKLDIVLoss, LigerJSD, LigerFusedLinearJSD)
    return numbers | {x.__name__: x for x in names}


def evaluated(page, theirs):
    return np.asarray(eval(theirs, library(page)), "f8")


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    recorded = {
        theirs: evaluated(page, theirs).tolist()
        for page, theirs, _ in rows()
        if page in ("pytorch", "tfp", "numpyro")
    }
    TABLE.write_text(json.dumps(recorded, indent=1) + "\n")
