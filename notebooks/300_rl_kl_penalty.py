# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The KL penalty of a policy, from samples
#
# A policy is trained for reward, and penalised for its distance from a reference:
#
# $$J(\pi) = \mathbb E_{x \sim \pi}[r(x)] - \beta \, \mathrm{KL}(\pi \,\|\, \pi_0).$$
#
# For a policy over sequences the KL cannot be summed, and is estimated from samples
# $x \sim \pi$. With $d = \log \pi_0(x) - \log \pi(x)$ there are three usual estimates:
#
# $$k_1 = -d, \qquad k_2 = d^2 / 2, \qquad k_3 = e^d - 1 - d.$$
#
# As a number, each has a bias and a variance. As a loss, it is the gradient that counts,
# and that is another matter: the samples depend on the policy too, and the derivative of
# the formula does not know.
#
# - `kl_estimate` has the value that is asked for, and always the same derivative, whose
#   mean is the gradient of KL(policy || reference).
# - The derivative of the formula is what comes of writing it down and leaving the rest
#   to `jax.grad`.
#
# Here the policies are small enough to sum over all outcomes, so that every bias and
# variance is known, and the best policy too. Float64, so that what is seen is the
# estimates and not their rounding.

# %%
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.nn import log_softmax, softmax

import kl_jax
from kl_jax import kl_divergence, kl_estimate, mean

jax.config.update("jax_enable_x64", True)
for module in (jax, optax, kl_jax):
    print(f"{module.__name__:7} {module.__version__}")
print(f"device  {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Bias and standard deviation
#
# Of one sample. Each outcome has a value and a gradient, in the policy's logits, and with
# the probabilities of the outcomes they give the mean and the standard deviation of both.
# Those of the value are divided by KL. Of the gradient it is the norm of the bias and the
# root of the summed variances, divided by the norm of the gradient of KL.


# %%
def formula(log_p, log_q, *, estimator):
    """The values of `kl_estimate`, with the derivatives of the values."""
    d = log_q - log_p
    return {"k1": -d, "k2": d**2 / 2, "k3": jnp.exp(d) - 1 - d}[estimator]


def of_outcomes(estimate, estimator, policy, reference, x):
    """Value and gradient of the estimate for each of the outcomes x."""

    def value(policy, x):
        log_p, log_q = log_softmax(policy)[x], log_softmax(reference)[x]
        return estimate(log_p, log_q, estimator=estimator)

    return jax.vmap(jax.value_and_grad(value), (None, 0))(policy, x)


def bias_and_deviation(p, value, gradient, kl, kl_gradient):
    """Of an estimate: p are the probabilities of its values."""
    norm = jnp.linalg.norm(kl_gradient)
    value_mean, gradient_mean = p @ value, p @ gradient
    deviation = jnp.sqrt(p @ (value - value_mean) ** 2)
    gradient_deviation = jnp.sqrt(p @ jnp.sum((gradient - gradient_mean) ** 2, axis=-1))
    gradient_bias = jnp.linalg.norm(gradient_mean - kl_gradient)
    of_value = (value_mean - kl) / kl, deviation / kl
    return jnp.stack([*of_value, gradient_bias / norm, gradient_deviation / norm])


def statistics(policy, reference, key=None, samples=0):
    """KL; by estimate, what `bias_and_deviation` returns: exact, or from samples."""
    exact = jax.value_and_grad(kl_divergence)(policy, reference)
    x, p = jnp.arange(len(policy)), softmax(policy)
    if samples:
        x = jax.random.categorical(key, policy, shape=(samples,))
        p = jnp.full(samples, 1 / samples)
    return exact[0], {
        (estimate.__name__, name): bias_and_deviation(
            p, *of_outcomes(estimate, name, policy, reference, x), *exact
        )
        for estimate in (kl_estimate, formula)
        for name in NAMES
    }


NAMES = "k1", "k2", "k3"
exact_statistics = jax.jit(jax.vmap(statistics))
by_samples = jax.jit(statistics, static_argnames="samples")

# %% [markdown]
# One example: 8 outcomes. The logits of the reference are standard normal numbers. Those
# of the policy are the same plus noise: standard normal numbers times a distance.

# %%
reference, noise = np.random.default_rng(0).standard_normal((2, 8))
distances = 10.0 ** (np.arange(-12, 8) / 12)  # 0.1 to 3.8
references = np.tile(reference, (len(distances), 1))
policies = references + distances[:, None] * noise
kls, curves = exact_statistics(policies, references)


def print_table(rows):
    print("         value            gradient, kl_estimate   gradient, formula")
    print("        bias       sd        bias       sd           bias       sd")
    for name in NAMES:
        value, right = np.split(rows["kl_estimate", name], 2)
        _, naive = np.split(rows["formula", name], 2)
        print(name, *(f"{x:z9.4f}" for x in value), *(f"{x:11.4f}" for x in right), end="")
        print(f"{naive[0]:15.4f}{naive[1]:9.4f}")


fixed = {}
for at in (0, 12):
    fixed[distances[at]] = {key: np.asarray(rows[at]) for key, rows in curves.items()}
    print(f"distance {distances[at]:g}, KL(policy || reference) = {kls[at]:.6f} nats")
    print_table(fixed[distances[at]])
    print()
print("Value: divided by KL. Gradient: divided by the norm of the gradient of KL.")

# %% [markdown]
# The bias of k2 can have either sign, and this example has little of it. So the same of
# 1000 other examples, each with its own reference and noise: medians, of the bias of
# the value without its sign.

# %%
draws = np.random.default_rng(1).standard_normal((1000, 2, 8))
medians = {}
for distance in (0.1, 1.0):
    kl, rows = exact_statistics(draws[:, 0] + distance * draws[:, 1], draws[:, 0])
    medians[distance] = {key: np.median(np.abs(x), axis=0) for key, x in rows.items()}
    kl = np.median(kl)
    print(f"distance {distance:g}, median KL(policy || reference) = {kl:.6f} nats")
    print_table(medians[distance])
    print()

# %% [markdown]
# The sums are checked by samples of the one example, at five distances.

# %%
SAMPLES = 200_000
checked = np.arange(0, len(distances), 4)
keys = jax.random.split(jax.random.key(0), len(checked))
found = [
    by_samples(policies[at], reference, key, samples=SAMPLES)[1]
    for at, key in zip(checked, keys)
]
sampled = {name: np.stack([rows[name] for rows in found]) for name in curves}
z = []  # of the means of the values
for name in NAMES:
    bias, deviation, *_ = curves["kl_estimate", name][checked].T
    found_bias = sampled["kl_estimate", name][:, 0]
    z.append((found_bias - bias) / (deviation / np.sqrt(SAMPLES)))
apart = max(np.max(np.abs(sampled[k] / curves[k][checked] - 1)[:, [1, 3]]) for k in curves)
print(f"{np.size(z)} means of {SAMPLES} values: ", end="")
print(f"at most {np.max(np.abs(z)):.2f} standard errors from the sums")
print(f"standard deviations of values and gradients: at most {100 * apart:.1f} % from them")

# %% [markdown]
# ## Training
#
# 4 contexts and 16 actions; the policy is a table of logits, and starts as the reference.
# A step draws 32 actions in each context. The reward enters by REINFORCE, with the mean of
# the other samples as the baseline; the penalty by one of the estimates. *Exact* has the
# gradient of the objective instead, summed over all actions.
#
# The best policy is $\pi^* \propto \pi_0 \, e^{r / \beta}$. What another policy lacks is
# $J(\pi^*) - J(\pi) = \beta \, \mathrm{KL}(\pi \,\|\, \pi^*)$.

# %%
CONTEXTS, ACTIONS, BATCH, STEPS, SEEDS, BETA = 4, 16, 32, 1500, 8, 0.5
base, reward = np.random.default_rng(2).standard_normal((2, CONTEXTS, ACTIONS))
best = base + reward / BETA  # logits of the best policy
average_kl = mean(kl_divergence)  # over the contexts


def objective(policy):
    expected = jnp.sum(softmax(policy) * reward, axis=-1)
    return jnp.mean(expected) - BETA * average_kl(policy, base)


def exact_loss(policy, gumbel):
    return -objective(policy), average_kl(policy, base)


def sampled_loss(estimate, estimator):
    penalty = mean(estimate)

    def loss(policy, gumbel):
        """The loss, and the KL that its samples tell."""
        x = jnp.argmax(policy + gumbel, axis=-1).T  # samples (contexts, batch)
        at_samples = lambda table: jnp.take_along_axis(table, x, axis=-1)
        log_p, log_q = at_samples(log_softmax(policy)), at_samples(log_softmax(base))
        kl = penalty(log_p, log_q, estimator=estimator)
        r = at_samples(reward)
        advantage = (r - jnp.mean(r, axis=-1, keepdims=True)) * BATCH / (BATCH - 1)
        return BETA * kl - jnp.mean(advantage * log_p), kl

    return loss


losses = {"exact": exact_loss}
losses |= {f"kl_estimate {name}": sampled_loss(kl_estimate, name) for name in NAMES}
losses |= {f"formula {name}": sampled_loss(formula, name) for name in NAMES}
optimizer = optax.adam(optax.cosine_decay_schedule(0.05, STEPS))


def total_loss(policies, gumbel):
    """Of all the ways of training. Each has its own policy, so they do not mix."""
    pairs = {name: loss(policies[name], gumbel) for name, loss in losses.items()}
    told = {name: kl for name, (_, kl) in pairs.items()}
    return sum(loss for loss, _ in pairs.values()), told


def step(carry, key):
    policies, state = carry
    gumbel = jax.random.gumbel(key, (BATCH, CONTEXTS, ACTIONS))  # the same for each way
    gradient, told = jax.grad(total_loss, has_aux=True)(policies, gumbel)
    updates, state = optimizer.update(gradient, state)
    policies = optax.apply_updates(policies, updates)
    return (policies, state), (policies, told)


@jax.jit
@jax.vmap
def train(key):
    """By way of training and step: the policy, and the KL told by the samples."""
    start = dict.fromkeys(losses, jnp.asarray(base))
    keys = jax.random.split(key, STEPS)
    _, history = jax.lax.scan(step, (start, optimizer.init(start)), keys)
    return history


@jax.jit
@jax.vmap
@jax.vmap
def measure(policy):
    """Objective, reward, KL(policy || reference) and KL(policy || best)."""
    j, kl = objective(policy), average_kl(policy, base)
    return jnp.stack([j, j + BETA * kl, kl, average_kl(policy, best)])


histories, told = train(jax.random.split(jax.random.key(1), SEEDS))
start = jnp.broadcast_to(base, (SEEDS, 1, CONTEXTS, ACTIONS))
runs = {}  # (seeds, evaluations, 4): the reference first, then after 10, 20, ... steps
for name in losses:
    shown = jnp.concatenate([start, histories[name][:, 9::10]], axis=1)
    runs[name] = np.asarray(measure(shown))

# %% [markdown]
# ## Result
#
# The derivative of the formula of k3 has the mean of the gradient of KL(reference ||
# policy), so its policy should come to the best for that penalty:
# $\pi = \beta \, \pi_0 / (\lambda - r)$, with the $\lambda$ for which it sums to 1.

# %%
low = np.max(reward + BETA * softmax(base), axis=-1, keepdims=True)  # the sum is above 1
high = np.max(reward, axis=-1, keepdims=True) + BETA  # and here below
for _ in range(60):
    middle = (low + high) / 2
    above = np.sum(BETA * softmax(base) / (middle - reward), axis=-1, keepdims=True) > 1
    low, high = np.where(above, middle, low), np.where(above, high, middle)
best_for_reverse = np.log(BETA * softmax(base) / (high - reward))
last = {name: run[:, -1] for name, run in runs.items()}
to_reverse = {
    name: np.asarray(jax.vmap(average_kl, (0, None))(policies[:, -1], best_for_reverse))
    for name, policies in histories.items()
}
seen = {name: np.asarray(kl[:, -200:]).mean(axis=1) for name, kl in told.items()}
best_objective = float(objective(best))

print(f"best policy: objective {best_objective:.4f}, ", end="")
print(f"KL(policy || reference) {average_kl(best, base):.4f} nats\n")
print("                                      KL(policy || reference)    KL(policy || best)")
print("               objective    reward       exact       told        of J     of k3")
for name, values in last.items():
    j, r, kl, to_best = values.mean(axis=0)
    print(f"{name:14} {j:9.4f} {r:9.4f} {kl:11.4f} {seen[name].mean():10.4f}", end="")
    print(f"{to_best:12.4f} {to_reverse[name].mean():9.4f}")
spread = max(values.std(axis=0, ddof=1).max() for values in last.values())
print(f"Means of {SEEDS} seeds, which differ by at most {spread:.4f} (standard deviation).")
print("KL in nats. Told: mean of the estimates of the last 200 steps.")

# %%
colours = {"k1": "tab:orange", "k2": "tab:green", "k3": "tab:red"}
fig, axes = plt.subplots(2, 3, figsize=(11, 6), dpi=110, layout="constrained")


def draw(column, estimate, name, **style):
    """Lines are sums over the outcomes, circles with standard errors are samples."""
    for row in (0, 1):
        i = 2 * column + row
        axes[row, column].plot(kls, curves[estimate, name][:, i], **style)
        points = sampled[estimate, name]
        error = points[:, 1] / np.sqrt(SAMPLES) if i == 0 else None
        circle = {"fmt": "o", "ms": 4.5, "mfc": "none", "color": style["color"]}
        axes[row, column].errorbar(kls[checked], points[:, i], error, **circle)


for name, colour in colours.items():
    draw(0, "kl_estimate", name, color=colour, label=name)
draw(1, "kl_estimate", "k3", color="tab:blue", label="kl_estimate, any", lw=4, alpha=0.5)
for name, colour in colours.items():
    dashes = "--" if name == "k2" else "-"
    draw(1, "formula", name, color=colour, label=f"formula, {name}", ls=dashes)

axes[0, 0].set(ylabel="bias / KL", title="Value", ylim=(-0.15, 0.25))
axes[1, 0].set(ylabel="standard deviation / KL")
axes[0, 1].set(ylabel="|bias| / |gradient|", title="Gradient", ylim=(-0.03, 1.35))
axes[1, 1].set(ylabel="standard deviation / |gradient|")
for ax in axes[:, :2].flat:
    ax.set(xscale="log", xlabel="KL(policy || reference) (nats)")
    ax.xaxis.set_major_formatter("{x:g}")
for ax in axes[1, :2]:
    ax.set(yscale="log", ylim=(0.6, 90), yticks=[1, 2, 5, 10, 20, 50])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:g}")

styles = {
    "exact": {"color": "black", "ls": ":", "label": "exact"},
    "kl_estimate k3": {"color": "tab:blue", "label": "kl_estimate, any"},
    "formula k1": {"color": colours["k1"], "label": "formula, k1"},
    "formula k3": {"color": colours["k3"], "label": "formula, k3"},
}
steps = np.arange(0, STEPS + 1, 10)
for name, style in styles.items():
    lacks, kl = best_objective - runs[name][:, :, 0], runs[name][:, :, 2]
    for ax, run in zip(axes[:, 2], (lacks, kl)):
        ax.plot(steps, run.mean(axis=0), **style)
        low, high = run.min(axis=0), run.max(axis=0)
        ax.fill_between(steps, low, high, color=style["color"], alpha=0.2, lw=0)
axes[0, 2].set(ylabel="J(best) - J(policy)", yscale="log", ylim=(2e-5, 2))
axes[0, 2].set_title("Training: mean and range over seeds")
axes[0, 2].yaxis.set_major_formatter("{x:g}")
axes[1, 2].set(ylabel="KL(policy || reference) (nats)")
axes[1, 2].axhline(average_kl(best, base), color="gray", lw=0.8)
axes[1, 2].text(STEPS, average_kl(best, base) - 0.05, "best policy", ha="right", va="top")
for ax in axes[:, 2]:
    ax.set(xlabel="training step", xlim=(0, STEPS))
axes[0, 0].legend(frameon=False, loc="upper center", ncols=3)
axes[0, 0].text(0.02, 0.02, "lines: sums, circles: samples", transform=axes[0, 0].transAxes)
axes[0, 1].legend(frameon=False, loc="upper left", ncols=2, fontsize="small")
axes[1, 2].legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.68))
for ax in axes.flat:
    ax.spines[["top", "right"]].set_visible(False)
folder = Path(globals().get("__file__", "")).parent  # a notebook runs in its own folder
fig.savefig(folder / "300_rl_kl_penalty.png", dpi=150)
print(f"plot: {folder / '300_rl_kl_penalty.png'}")

# %% [markdown]
# - As a number, k1 and k3 have no bias. k1 has by far the largest standard deviation where
#   the policy is near the reference, more than 20 times that of k3 at distance 0.1; far
#   away it is k3. k2 is biased, by more than a tenth in the median example at distance 1.
# - The gradient of `kl_estimate` has no bias, whichever the value. The derivative of k2 is
#   the same. That of k1 is noise around 0: the policy trained with it has no penalty, and
#   ends more than half a nat from the best. That of k3 has a bias that grows with the
#   distance: its policy ends at the optimum of another penalty, KL(reference || policy).
# - With `kl_estimate` the policy comes to within 0.005 nats of the best with any of the
#   three. What differs is the KL that is told, more than 3 % too low with k2.
# - All is for samples of the policy as it is. Nothing here is about samples of an older
#   policy, or about sequences token by token.

# %%
for table in (fixed, medians):
    for rows in table.values():
        for name in NAMES:
            assert rows["kl_estimate", name][2] < 1e-12  # no bias of the gradient
        assert max(abs(rows["kl_estimate", name][0]) for name in ("k1", "k3")) < 1e-10
        assert abs(rows["formula", "k1"][2] - 1) < 1e-12  # the mean of its gradient is 0
        np.testing.assert_allclose(
            rows["formula", "k2"][2:], rows["kl_estimate", "k2"][2:], atol=1e-10
        )
    near, far = table[0.1], table[1.0]
    assert near["kl_estimate", "k1"][1] > 20 * near["kl_estimate", "k3"][1]
    assert far["formula", "k3"][2] > 5 * near["formula", "k3"][2] > 0.1
assert medians[1.0]["kl_estimate", "k2"][0] > 0.1
assert curves["kl_estimate", "k3"][-1, 1] > 2 * curves["kl_estimate", "k1"][-1, 1]
assert np.max(np.abs(z)) < 5 and apart < 0.2

for values in last.values():  # J of the best - J, over beta, is KL(policy || best)
    gap = (best_objective - values[:, 0]) / BETA
    np.testing.assert_allclose(gap, values[:, 3], atol=1e-12)
for name in NAMES:
    np.testing.assert_allclose(
        last[f"kl_estimate {name}"], last["kl_estimate k3"], atol=1e-5
    )
assert last["exact"][:, 3].max() < 0.001 and last["kl_estimate k3"][:, 3].max() < 0.005
assert last["formula k1"][:, 3].min() > 0.5
assert last["formula k3"][:, 3].min() > 0.2 and to_reverse["formula k3"].max() < 0.005
assert seen["kl_estimate k2"].mean() < 0.97 * last["kl_estimate k2"][:, 2].mean()
for name, tolerance in (("k1", 0.02), ("k3", 0.05)):
    exact_kl = last[f"kl_estimate {name}"][:, 2].mean()
    assert abs(seen[f"kl_estimate {name}"].mean() / exact_kl - 1) < tolerance
