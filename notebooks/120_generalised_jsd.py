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
# # On-policy distillation with generalised JSD
#
# Distillation on text shows a student what the teacher would say after every prefix that
# people wrote. When the student writes by itself, it meets prefixes of its own. In
# on-policy distillation the student writes, and a divergence between teacher and student
# is made small there (Agarwal et al., "On-policy distillation of language models", 2024).
#
# Here a small model of bytes learns the Python reference. A smaller student has seen the
# text for a while, and goes on in four ways. With the teacher's distribution p of the next
# byte and the student's q, they are:
#
# - **KL, text**: KL(p || q) after prefixes of the text;
# - **KL, samples**: KL(p || q) after prefixes that the student has written;
# - **JSD, samples**: the generalised Jensen-Shannon divergence
#   $\beta\,\mathrm{KL}(p \,\|\, m) + (1 - \beta)\,\mathrm{KL}(q \,\|\, m)$ with
#   $m = \beta p + (1 - \beta) q$, there;
# - **reverse KL, samples**: KL(q || p), there.
#
# Every loss is a function of hidden states and of the matrices of both heads, and
# `chunked` computes it without the logits of all tokens. At the end: how much memory that
# takes as the vocabulary grows.

# %%
from pathlib import Path
from pydoc_data.topics import topics

import flax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

import kl_jax
from kl_jax import (
    chunked,
    jensen_shannon_divergence,
    kl_divergence,
    mean,
    reverse_kl_divergence,
)

for module in (jax, flax, optax, kl_jax):
    print(f"{module.__name__:7} {module.__version__}")
print(f"device  {jax.devices()[0].device_kind}")

# %% [markdown]
# ## The text
#
# The topics of Python's `help()`, each paragraph once, as bytes. They change a little from
# one version of Python to the next, and the numbers below with them. The first 16 bytes
# of a sequence are the prompt, and the models predict the 32 that follow.

# %%
PROMPT, LENGTH, BATCH = 16, 32, 16  # bytes, bytes, sequences

paragraphs = dict.fromkeys(
    " ".join(x.split()) for topic in sorted(topics) for x in topics[topic].split("\n\n")
)
text = np.frombuffer("\n".join(paragraphs).encode(), np.uint8).astype(np.int32)
number = len(text) // (PROMPT + LENGTH)
sequences = text[: number * (PROMPT + LENGTH)].reshape(number, PROMPT + LENGTH)
sequences = np.random.default_rng(0).permutation(sequences)
test, train = sequences[:32], sequences[32:]
print(f"{len(text)} bytes, {len(set(text.tolist()))} different")
print(f"{len(train)} training and {len(test)} validation sequences")


def batches(seed, steps):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield train[rng.integers(len(train), size=BATCH)]


# %% [markdown]
# ## The model
#
# It reads a window of 16 bytes and predicts the next one. A call returns the hidden state
# of each window; the matrix of the head is used by the losses.


# %%
class Model(nnx.Module):
    def __init__(self, width, rngs):
        self.embed = nnx.Embed(256, 16, rngs=rngs)
        self.first = nnx.Linear(16 * PROMPT, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, 256, use_bias=False, rngs=rngs)

    def __call__(self, windows):
        x = self.embed(windows).reshape(len(windows), -1)
        x = nnx.relu(self.first(x))
        return x + nnx.relu(self.second(x))


def windows_of(tokens):
    """The 16 bytes before each byte that is predicted, a row each."""
    places = np.arange(LENGTH)[:, None] + np.arange(PROMPT)
    return tokens[:, places].reshape(-1, PROMPT)


@nnx.jit
def sample(model, prompts, key):
    """The prompts, and 32 bytes that the model goes on with."""

    def step(window, key):
        drawn = jax.random.categorical(key, model.head(model(window)))
        return jnp.concatenate([window[:, 1:], drawn[:, None]], axis=1), drawn

    _, written = jax.lax.scan(step, prompts, jax.random.split(key, LENGTH))
    return jnp.concatenate([prompts, written.T], axis=1)


# %% [markdown]
# ## The losses
#
# First three functions of rows: a row of hidden states of the teacher and one of the
# student give one number. The matrices of the heads belong to all rows, so they are
# keyword arguments. With $\beta$ near 0 the generalised JSD is close to a small multiple of
# KL(p || q), and with $\beta$ near 1 to one of KL(q || p).

# %%
BETA = 0.25


def kl(hidden_p, hidden_q, *, weights_p, weights_q):
    return kl_divergence(hidden_p @ weights_p, hidden_q @ weights_q)


def jsd(hidden_p, hidden_q, *, weights_p, weights_q):
    return jensen_shannon_divergence(hidden_p @ weights_p, hidden_q @ weights_q, beta=BETA)


def reverse_kl(hidden_p, hidden_q, *, weights_p, weights_q):
    return reverse_kl_divergence(hidden_p @ weights_p, hidden_q @ weights_q)


# %% [markdown]
# `chunked(jsd, 64)` is the same function, computed 64 rows at a time: the logits exist for
# 64 rows only, and the derivative computes them again. `mean` averages over the rows.

# %%
CHUNK = 64
losses = {
    "KL": mean(chunked(kl, CHUNK)),
    "JSD": mean(chunked(jsd, CHUNK)),
    "reverse KL": mean(chunked(reverse_kl, CHUNK)),
}

# %% [markdown]
# Each as a function of the two models and of the bytes that they read. Only the derivative
# in the student, the first argument, is taken.


# %%
def rows_of(student, teacher, tokens):
    """The arguments of a loss."""
    windows = windows_of(tokens)
    weights = {
        "weights_p": teacher.head.kernel[...],
        "weights_q": student.head.kernel[...],
    }
    return (teacher(windows), student(windows)), weights


def of_models(loss):
    def of_student(student, teacher, tokens):
        hidden, weights = rows_of(student, teacher, tokens)
        return loss(*hidden, **weights)

    return of_student


def training_step(loss):
    @nnx.jit
    def step(model, optimizer, *batch):
        value, grads = nnx.value_and_grad(loss)(model, *batch)
        optimizer.update(model, grads)
        return value

    return step


# %% [markdown]
# ## The teacher
#
# It learns from the text, by cross-entropy with the next byte. It does not change any more
# afterwards.

# %%
TEACHER, STUDENT = 192, 64  # widths


def cross_entropy(model, tokens):
    logits = model.head(model(windows_of(tokens)))
    targets = tokens[:, PROMPT:].reshape(-1)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


learn = training_step(cross_entropy)
adam = optax.adam(3e-3)  # one for all models: each new one would compile the steps again


def learnt(model, seed, steps):
    optimizer = nnx.Optimizer(model, adam, wrt=nnx.Param)
    for batch in batches(seed, steps):
        learn(model, optimizer, batch)
    return model


teacher = learnt(Model(TEACHER, nnx.Rngs(0)), 0, 400)
of_test = nnx.jit(cross_entropy)(teacher, test)
print(f"cross-entropy with the validation text: {of_test:.3f} nats per byte")

# %% [markdown]
# ## The students
#
# They start in the same way, with fewer steps. All ways go on from the same student, with
# the same batches, optimizer and number of steps. In three of the ways the student replaces
# what follows the prompts by its own samples, before each step. They are whole numbers: no
# derivative is taken through them. A second seed, of first values, batches and samples,
# shows how much is chance.

# %%
ways = {  # the loss, and whether the student writes
    "KL, text": ("KL", False),
    "KL, samples": ("KL", True),
    "JSD, samples": ("JSD", True),
    "reverse KL, samples": ("reverse KL", True),
}
SEEDS, STEPS, EVERY = (1, 2), 60, 20

train_by = {name: training_step(of_models(loss)) for name, loss in losses.items()}
value_of = {name: nnx.jit(of_models(loss)) for name, loss in losses.items()}
before = {seed: learnt(Model(STUDENT, nnx.Rngs(seed)), seed, 100) for seed in SEEDS}


def evaluate(student, key):
    """What each way trains for, of the validation text or of its prompts."""
    written = sample(student, test[:, :PROMPT], key)
    return [
        value_of[loss](student, teacher, written if on_samples else test)
        for loss, on_samples in ways.values()
    ]


def distilled(way, seed):
    """The student; the evaluations every EVERY steps."""
    loss, on_samples = ways[way]
    student, key = nnx.clone(before[seed]), jax.random.key(seed)
    optimizer = nnx.Optimizer(student, adam, wrt=nnx.Param)
    history = [evaluate(student, key)]
    for i, tokens in enumerate(batches(10 + seed, STEPS), start=1):
        if on_samples:
            tokens = sample(student, tokens[:, :PROMPT], jax.random.fold_in(key, i))
        train_by[loss](student, optimizer, teacher, tokens)
        if i % EVERY == 0:
            history.append(evaluate(student, key))
    return student, np.array(history)


students, runs = {}, {}
for way in tqdm(ways, desc="ways", mininterval=2):
    for seed in SEEDS:
        students[way, seed], runs[way, seed] = distilled(way, seed)

# %% [markdown]
# ## Result
#
# A row is a way of training, and a column is a loss on validation data, in nats per byte:
# the mean over the two seeds, and in brackets how far each of them is from it. What a way
# was trained for is in the column of the same name. Where a column says "samples", every
# student has written its own.

# %%
# Seeds, evaluations, losses.
histories = {name: np.array([runs[name, seed] for seed in SEEDS]) for name in ways}
final = {"before": histories["KL, text"][:, 0]}
final |= {name: history[:, -1] for name, history in histories.items()}
print(f"{'':20}" + "".join(f"{name:>20}" for name in ways))
for name, values in final.items():
    half = np.ptp(values, axis=0) / 2
    cells = [f"{m:.4f} ({h:.4f})" for m, h in zip(values.mean(0), half)]
    print(f"{name:20}" + "".join(f"{cell:>20}" for cell in cells))

# %% [markdown]
# What the teacher, and the students of the first seed, go on with after one prompt.

# %%
writers = {"teacher": teacher, "before": before[1]}
writers |= {name: students[name, 1] for name in ways}
for name, model in writers.items():
    row = sample(model, test[:, :PROMPT], jax.random.key(0))[0]
    print(f"{name:20}", bytes(row.tolist()))

# %% [markdown]
# ## Memory
#
# The same loss with and without `chunked`, and its gradient in the student's hidden states
# and matrix, for as many tokens as the validation text has. XLA says how much temporary
# memory a compiled function needs, besides its arguments and results, without running it.

# %%
ROWS = len(test) * LENGTH
vocabularies = [256, 4096, 65536]
forms = {"chunked": mean(chunked(jsd, CHUNK)), "all logits": mean(jsd)}


@jax.default_matmul_precision("highest")  # on a GPU or TPU operands are rounded otherwise
def compiled(loss, vocabulary):
    def of_student(hidden_q, weights_q, hidden_p, weights_p):
        return loss(hidden_p, hidden_q, weights_p=weights_p, weights_q=weights_q)

    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for width in (STUDENT, TEACHER)
        for shape in ((ROWS, width), (width, vocabulary))
    ]
    lowered = jax.jit(jax.value_and_grad(of_student, (0, 1))).lower(*shapes)
    # Slower code, in half the time: on a CPU it needs the same memory.
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


programs = {(name, v): compiled(forms[name], v) for name in forms for v in vocabularies}
memory = {
    name: [
        programs[name, v].memory_analysis().temp_size_in_bytes / 2**20 for v in vocabularies
    ]
    for name in forms
}
print(f"{ROWS} tokens, {CHUNK} in a chunk: temporary MiB")
print(f"{'vocabulary':12}", *(f"{v:8}" for v in vocabularies))
for name, sizes in memory.items():
    print(f"{name:12}", *(f"{size:8.1f}" for size in sizes))

# %% [markdown]
# The two programs for bytes, run on validation text, give the same numbers.

# %%
(hidden_p, hidden_q), weights = rows_of(before[1], teacher, test)
arguments = hidden_q, weights["weights_q"], hidden_p, weights["weights_p"]
results = [jax.tree.leaves(programs[name, 256](*arguments)) for name in forms]
apart = [float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y))) for x, y in zip(*results)]
print("Largest difference, relative to the largest entry:")
for what, difference in zip(("value", "gradient in states", "gradient in matrix"), apart):
    print(f"{what:18} {difference:.1e}")

# %% [markdown]
# In the plots of training a line is the mean over the seeds, and a band reaches from one
# seed to the other.

# %%
colours = dict(zip(ways, ("tab:gray", "tab:green", "tab:blue", "tab:orange")))
fig, axes = plt.subplots(1, 3, figsize=(12, 3.6), dpi=110, layout="constrained")
steps = np.arange(0, STEPS + 1, EVERY)
for i, (name, colour) in enumerate(colours.items()):
    on_text, own = histories[name][:, :, 0], histories[name][:, :, i]
    for ax, values in zip(axes, (on_text, own / own[:, :1])):
        ax.plot(steps, values.mean(0), "o-", color=colour, label=name, markersize=4)
        ax.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)
axes[0].set(title="KL(teacher || student), validation text", ylabel="nats per byte")
axes[1].set(title="The loss trained for, validation data", ylabel="relative to before")
for ax in axes[:2]:
    ax.set(xlabel="training step")
axes[0].legend(frameon=False)
for (name, sizes), colour in zip(memory.items(), ("tab:blue", "tab:red")):
    axes[2].plot(vocabularies, sizes, "o-", color=colour, label=name)
axes[2].set_xscale("log", base=2)
axes[2].set_yscale("log")
axes[2].set(xticks=vocabularies, xticklabels=["256", "4k", "64k"])
axes[2].set(xlabel="vocabulary", ylabel="temporary memory (MiB)")
axes[2].set(title=f"JSD, value and gradient, {ROWS} tokens")
axes[2].yaxis.set_major_formatter("{x:g}")
axes[2].legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
folder = Path(globals().get("__file__", "")).parent  # a notebook runs in its own folder
fig.savefig(folder / "120_generalised_jsd.png", dpi=150)
print(f"plot: {folder / '120_generalised_jsd.png'}")

# %% [markdown]
# - In this run every way has the lowest mean in its own column. Between KL and JSD on
#   samples the differences, in both of their columns, are within those of the seeds.
# - The student that learns from text has the lower KL on text, and the one that learns KL
#   from its samples the lower KL on samples, by more than the seeds differ.
# - Of the four, reverse KL leaves the largest KL(p || q), on text and on samples: it does
#   not ask the student to give probability to all that the teacher might say. On text JSD
#   lies between KL on samples and reverse KL.
# - In the middle plot each way is relative to its own start. The losses are different
#   numbers, so that their heights do not say which way is better.
# - All of this is two seeds and a few steps of small models. How good the written text is
#   was not measured.
# - `chunked` needs less temporary memory for every vocabulary, here less than a sixth. It
#   still grows with the vocabulary, as the logits of a chunk do. Value and gradient differ
#   by the rounding of float32.
# - The price is that the derivative computes the logits again. Times are not compared here.
#   For KL alone `linear_kl_divergence` needs not even the logits of a chunk.

# %%
assert all(ours < naive for ours, naive in zip(*memory.values()))
assert apart[0] < 1e-6
