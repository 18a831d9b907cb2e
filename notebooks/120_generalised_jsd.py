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
# Distillation on text shows the student what the teacher says after every prefix that
# people wrote. When the student writes by itself, it meets prefixes of its own. In
# on-policy distillation the student samples, the teacher scores what was sampled, and a
# divergence of the two is minimised there (Agarwal et al., 2024: generalised knowledge
# distillation).
#
# Here a small recurrent model of bytes learns the Python reference, and a student of half
# its width, which has seen the text for a while, goes on in four ways:
#
# - **text, KL**: KL(teacher || student) on text;
# - **samples, KL**: the same on samples of the student;
# - **samples, JSD**: the generalised Jensen-Shannon divergence
#   $\beta\,\mathrm{KL}(p \,\|\, m) + (1 - \beta)\,\mathrm{KL}(q \,\|\, m)$ of teacher p and
#   student q, with $m = \beta p + (1 - \beta) q$, on samples;
# - **samples, reverse**: KL(student || teacher) on samples.
#
# The loss is a function of the hidden states and of the matrices of both heads.
# `chunked` makes any such function one that never holds the logits of all tokens. At the
# end: how much memory that takes as the vocabulary grows.

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
    masked,
    mean,
    reverse_kl_divergence,
)

for module in (jax, flax, optax, kl_jax):
    print(f"{module.__name__:7} {module.__version__}")
print(f"device  {jax.devices()[0].device_kind}")

# %% [markdown]
# ## The text
#
# The topics of Python's `help()`, each paragraph once, as bytes. They change a little
# from one version of Python to the next, and the numbers below with them. A sequence has
# one byte more than the model reads: each is given with the one that follows.

# %%
SEEDS, LENGTH, PROMPT, BATCH = 3, 48, 16, 8
TEACHER, STUDENT = 128, 64  # widths
TEACHER_STEPS, FIRST_STEPS, STEPS = 600, 150, 100
BETA = 0.5

paragraphs = dict.fromkeys(
    " ".join(x.split()) for topic in sorted(topics) for x in topics[topic].split("\n\n")
)
text = np.frombuffer("\n".join(paragraphs).encode(), np.uint8).astype(np.int32)
sequences = text[: len(text) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
sequences = np.random.default_rng(0).permutation(sequences)
test, train = sequences[:64], sequences[64:]
print(f"{len(text)} bytes, {len(set(text.tolist()))} different")
print(f"{len(train)} training and {len(test)} validation sequences of {LENGTH}")

# %% [markdown]
# ## The model
#
# A call returns the hidden states; the matrix of the head is used by the losses. To
# sample costs as much as to read: one step of the network for each byte.


# %%
class Model(nnx.Module):
    def __init__(self, width, rngs):
        self.embed = nnx.Embed(256, width, rngs=rngs)
        self.cell = nnx.GRUCell(width, width, rngs=rngs)
        self.head = nnx.Linear(width, 256, use_bias=False, rngs=rngs)

    def step(self, state, token):
        return self.cell(state, self.embed(token))[0]

    def start(self, tokens):
        return jnp.zeros((len(tokens), self.head.in_features))

    def __call__(self, tokens):
        def step(state, token):
            state = self.step(state, token)
            return state, state

        _, hidden = jax.lax.scan(step, self.start(tokens), tokens.T)
        return jnp.swapaxes(hidden, 0, 1)

    def sample(self, tokens, key):
        """The first PROMPT tokens, and what the model goes on with."""

        def step(carry, given):
            state, token = carry
            key, known, following = given
            state = self.step(state, token)
            drawn = jax.random.categorical(key, self.head(state))
            token = jnp.where(known, following, drawn)
            return (state, token), token

        first, *_ = columns = tokens.T
        keys = jax.random.split(key, LENGTH)
        known = jnp.arange(1, LENGTH + 1) < PROMPT
        given = keys, known, columns[1:]
        _, rest = jax.lax.scan(step, (self.start(tokens), first), given)
        return jnp.concatenate([first[None], rest]).T


# %% [markdown]
# ## The losses
#
# Functions of rows of hidden states, and of two matrices. Each is chunked, masked and
# averaged once, here. The mask keeps what follows the prompt; on text too, so that all
# methods learn from the same number of bytes.


# %%
def of_heads(divergence):
    def f(hidden_p, hidden_q, *, weights_p, weights_q):
        return divergence(hidden_p @ weights_p, hidden_q @ weights_q)

    return f


def jsd(logits_p, logits_q):
    return jensen_shannon_divergence(logits_p, logits_q, beta=BETA)


def loss_of(divergence):
    return mean(masked(chunked(of_heads(divergence), 4)))  # 4 sequences at a time


kl, reverse_kl = loss_of(kl_divergence), loss_of(reverse_kl_divergence)
methods = {  # the loss, and whether it is taken on samples
    "text, KL": (kl, False),
    "samples, KL": (kl, True),
    "samples, JSD": (loss_of(jsd), True),
    "samples, reverse": (reverse_kl, True),
}
AFTER_PROMPT = np.arange(1, LENGTH + 1) >= PROMPT


def compared(loss, student, tokens):
    """The loss between teacher and student after every token but the last."""
    teacher = nnx.merge(*of_teacher)
    mask = jnp.broadcast_to(AFTER_PROMPT, (len(tokens), LENGTH))
    hidden = [jax.lax.stop_gradient(teacher(tokens[:, :-1])), student(tokens[:, :-1])]
    heads = {"weights_p": teacher.head.kernel[...], "weights_q": student.head.kernel[...]}
    return loss(*hidden, **heads, mask=mask)


def cross_entropy(model, tokens):
    logits = model.head(model(tokens[:, :-1]))
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def training_step(loss):
    def step(model, optimizer, *batch):
        value, grads = nnx.value_and_grad(loss)(model, *batch)
        optimizer.update(model, grads)
        return value

    return step


# %% [markdown]
# ## The teacher

# %%
teacher = Model(TEACHER, nnx.Rngs(0))
optimizer = nnx.Optimizer(teacher, optax.adam(3e-3), wrt=nnx.Param)
step = nnx.cached_partial(nnx.jit(training_step(cross_entropy)), teacher, optimizer)
rng = np.random.default_rng(0)
for _ in tqdm(range(TEACHER_STEPS), desc="teacher", mininterval=2):
    step(train[rng.integers(len(train), size=BATCH)])
of_teacher = nnx.split(teacher)  # it does not change any more
teacher_nats = nnx.jit(cross_entropy)(teacher, test)
print(f"cross-entropy with the validation text: {teacher_nats:.3f} nats per byte")

# %% [markdown]
# ## The students
#
# A seed fixes the first values and the batches, and `nnx.vmap` trains all seeds at once.
# All methods go on from the same student of a seed, with the same prompts: the first
# 16 bytes of the same batches.


# %%
@nnx.vmap
def create(key):
    return Model(STUDENT, nnx.Rngs(key))


@nnx.vmap
def optimized(student):
    return nnx.Optimizer(student, optax.adam(2e-3), wrt=nnx.Param)


@nnx.jit
@nnx.vmap(in_axes=(0, None))
def evaluate(student, key):
    """KL(teacher || student) on text, KL(student || teacher) on samples, cross-entropy."""
    sampled = student.sample(test, key)
    on_samples = compared(reverse_kl, student, sampled)
    return compared(kl, student, test), on_samples, cross_entropy(student, test)


def batches(seed, steps):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield train[rng.integers(len(train), size=(SEEDS, BATCH))]


students = create(jax.random.split(jax.random.key(1), SEEDS))
step = nnx.jit(nnx.vmap(training_step(cross_entropy)))
step = nnx.cached_partial(step, students, optimized(students))
for batch in tqdm(batches(1, FIRST_STEPS), desc="students", mininterval=2):
    step(batch)


def train_students(name):
    """Steps, and the three evaluations of shape (evaluations, seeds)."""
    loss, on_samples = methods[name]

    def of_batch(student, tokens, key):
        if on_samples:
            tokens = jax.lax.stop_gradient(student.sample(tokens, key))
        return compared(loss, student, tokens)

    trained = nnx.clone(students)
    step = nnx.jit(nnx.vmap(training_step(of_batch)))
    step = nnx.cached_partial(step, trained, optimized(trained))
    key = jax.random.key(2)
    history = [(0, *evaluate(trained, key))]
    for i, batch in enumerate(tqdm(batches(2, STEPS), desc=name, mininterval=2), 1):
        step(batch, jax.random.split(jax.random.fold_in(key, i), SEEDS))
        if i % 25 == 0:
            history.append((i, *evaluate(trained, key)))
    return [np.stack(x) for x in zip(*history)]


runs = {name: train_students(name) for name in methods}

# %% [markdown]
# ## Result

# %%
print("                    KL(teacher || student)   KL(student || teacher)   cross-entropy")
print("                    on text                  on its samples           on text")
final = {"before": [x[0] for x in runs["text, KL"][1:]]}
final |= {name: [x[-1] for x in run[1:]] for name, run in runs.items()}
for name, columns in final.items():
    shown = [f"{x.mean():.4f} +- {x.std(ddof=1):.4f}" for x in columns]
    print(f"{name:19} {shown[0]:24} {shown[1]:24} {shown[2]}")
print(f"Nats per byte, mean +- standard deviation of {SEEDS} seeds.\n")


def difference(name, other, column):
    """Paired by seed: the mean and its standard error."""
    d = final[name][column] - final[other][column]
    return d.mean(), d.std(ddof=1) / np.sqrt(SEEDS)


for name in list(methods)[1:]:
    cells = [difference(name, "text, KL", column) for column in (0, 1)]
    print(f"{name:16} - text, KL:", *(f"{m:+.4f} +- {e:.4f}    " for m, e in cells))
print("Mean +- standard error over seeds, paired: on text, and on its samples.")

# %%
state = jax.tree.map(lambda x: x[0], nnx.split(students)[1])
print("Prompts of the validation text, and what the student before goes on with:")
written = nnx.merge(nnx.split(students)[0], state).sample(test[:3], jax.random.key(0))
for row in np.asarray(written):
    print(repr(bytes(row.astype(np.uint8).tolist())))

# %% [markdown]
# ## The heads: value, gradient and memory
#
# Three ways to compute the generalised Jensen-Shannon divergence of two heads, and its
# gradient in the student's hidden states and matrix. XLA says how much temporary memory a
# compiled function needs, besides its arguments and results, without running it. Only
# that of the smallest vocabulary is run.


# %%
def textbook(hidden_p, hidden_q, *, weights_p, weights_q):
    log_p = jax.nn.log_softmax(hidden_p @ weights_p)
    log_q = jax.nn.log_softmax(hidden_q @ weights_q)
    log_m = jnp.logaddexp(log_p + np.log(BETA), log_q + np.log(1 - BETA))
    of_p = jnp.sum(jnp.exp(log_p) * (log_p - log_m), -1)
    return BETA * of_p + (1 - BETA) * jnp.sum(jnp.exp(log_q) * (log_q - log_m), -1)


def compiled(form, vocabulary):
    def loss(hidden_p, weights_p, hidden_q, weights_q):
        return mean(form)(hidden_p, hidden_q, weights_p=weights_p, weights_q=weights_q)

    head = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for width in (TEACHER, STUDENT)
        for shape in ((ROWS, width), (width, vocabulary))
    ]
    return jax.jit(jax.value_and_grad(loss, (2, 3))).lower(*head).compile()


forms = {
    "chunked": chunked(of_heads(jsd), 64),
    "all logits": of_heads(jsd),
    "textbook": textbook,
}
ROWS = BATCH * LENGTH
vocabularies = [256 * 16**i for i in range(3)]
heads, memory = {}, {name: [] for name in forms}
for vocabulary in tqdm(vocabularies, desc="compiled", mininterval=2):
    for name, form in forms.items():
        heads[name, vocabulary] = compiled(form, vocabulary)
        size = heads[name, vocabulary].memory_analysis().temp_size_in_bytes
        memory[name].append(size / 2**20)

# %%
rows = memory | {"gradient in the matrix": [STUDENT * v / 2**18 for v in vocabularies]}
print(f"{ROWS} tokens, widths {TEACHER} and {STUDENT}: temporary MiB")
print(f"{'vocabulary':24}", *(f"{v:8}" for v in vocabularies))
for name, sizes in rows.items():
    print(f"{name:24}", *(f"{size:8.1f}" for size in sizes))
print("The last line is a result, not temporary.")

rng = np.random.default_rng(0)
normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
hidden = normal(ROWS, TEACHER)
arguments = hidden, normal(TEACHER, 256) / 8, hidden[:, :STUDENT], normal(STUDENT, 256) / 8
found = {name: jax.tree.leaves(heads[name, 256](*arguments)) for name in forms}
ours = found.pop("chunked")
print("Largest difference from chunked, relative to the largest entry:")
apart = {}
for name, others in found.items():
    pairs = zip(ours, others)
    apart[name] = max(np.max(np.abs(x - y)) / np.max(np.abs(y)) for x, y in pairs)
    print(f"{name:24} {apart[name]:.1e}")

# %%
colours = dict(zip(methods, ("tab:gray", "tab:green", "tab:blue", "tab:orange")))
fig, axes = plt.subplots(1, 3, figsize=(12, 3.6), dpi=110, layout="constrained")
titles = "KL(teacher || student) on text", "KL(student || teacher) on its samples"
for i, title in enumerate(titles):
    for name, colour in colours.items():
        steps, nats = runs[name][0], runs[name][1 + i]
        axes[i].plot(steps, nats.mean(1), "o-", color=colour, label=name, markersize=4)
        axes[i].fill_between(steps, nats.min(1), nats.max(1), color=colour, alpha=0.2, lw=0)
    axes[i].set(xlabel="training step", ylabel="nats per byte", title=title)
axes[0].legend(frameon=False)
for name, colour in zip(forms, ("tab:blue", "tab:orange", "tab:red")):
    axes[2].plot(vocabularies, memory[name], "o-", color=colour, label=name)
axes[2].set_xscale("log", base=2)
axes[2].set_yscale("log")
axes[2].set(xlabel="vocabulary", ylabel="temporary memory (MiB)")
axes[2].set(title=f"JSD, value and gradient, {ROWS} tokens")
axes[2].yaxis.set_major_formatter("{x:g}")
axes[2].legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
folder = Path(globals().get("__file__", "")).parent  # a notebook runs in its own folder
fig.savefig(folder / "120_generalised_jsd.png", dpi=150)
print(f"plot: {folder / '120_generalised_jsd.png'}")
