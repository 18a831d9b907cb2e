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
# # Distillation of a language model, without its logits
#
# A language model ends in a matrix from its hidden states to the logits of the whole
# vocabulary. For a large vocabulary the logits, and what the derivative of a loss keeps
# of them, can take more memory than all the rest.
#
# `linear_kl_divergence` takes the hidden states and the matrices of teacher and student
# instead of their logits, which it computes a tile of the vocabulary at a time and does
# not keep. Teacher and student may differ in width; they share the vocabulary.
#
# Here a small transformer learns to predict the next word of the Python reference, and
# a student of half its width is trained in two ways that differ in the loss only:
#
# - **alone**: cross-entropy with the next word;
# - **distilled**: KL(teacher || student), and nothing else.
#
# At the end: how much memory the loss and its gradient need as the vocabulary grows.

# %%
import re
from collections import Counter
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
from kl_jax import kl_divergence, linear_kl_divergence, masked, mean

for module in (jax, flax, optax, kl_jax):
    print(f"{module.__name__:7} {module.__version__}")
print(f"device  {jax.devices()[0].device_kind}")

# %% [markdown]
# ## The text
#
# The topics of Python's `help()`, each paragraph once. They change a little from one
# version of Python to the next, and the numbers below with them. A token is a word, a
# digit or a run of other signs, with the space before it. Each token of a sequence is
# given with the one that follows; the last sequence of a topic is padded.

# %%
VOCABULARY, LENGTH, BATCH, STEPS = 4096, 64, 8, 150
TEACHER, STUDENT = 128, 64  # widths
PADDING, UNKNOWN = 0, 1

seen, documents = set(), []
for topic in sorted(topics):
    paragraphs = [" ".join(x.split()) for x in topics[topic].split("\n\n")]
    new = [x for x in dict.fromkeys(paragraphs) if x and x not in seen]
    seen.update(new)
    documents.append(re.findall(r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]+|\s", "\n".join(new)))

counts = Counter(token for document in documents for token in document)
ranked = sorted(counts, key=lambda token: (-counts[token], token))
index = {token: i for i, token in enumerate(ranked[: VOCABULARY - 2], start=2)}
assert len(index) == VOCABULARY - 2

sequences = []
for document in documents:
    ids = [index.get(token, UNKNOWN) for token in document]
    for start in range(0, len(ids) - 1, LENGTH):
        piece = ids[start : start + LENGTH + 1]
        sequences.append(piece + [PADDING] * (LENGTH + 1 - len(piece)))
sequences = np.random.default_rng(0).permutation(np.array(sequences, np.int32))
held_out = 64  # sequences
train, test = ((x[:, :-1], x[:, 1:]) for x in (sequences[held_out:], sequences[:held_out]))

print(f"{sum(counts.values())} tokens, {len(counts)} different")
unknown, padding = np.mean(sequences == UNKNOWN), np.mean(sequences == PADDING)
print(f"{len(train[0])} training and {len(test[0])} validation sequences of {LENGTH}")
print(f"unknown {100 * unknown:.1f} %, padding {100 * padding:.1f} %")

# %% [markdown]
# ## The model
#
# A call returns the hidden states; the matrix of the head is used by the losses.


# %%
class Layer(nnx.Module):
    def __init__(self, width, rngs):
        self.norm_1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.norm_2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
        x = x + self.attention(self.norm_1(x), mask=causal)
        return x + self.down(nnx.gelu(self.up(self.norm_2(x))))


class Transformer(nnx.Module):
    def __init__(self, width, rngs):
        self.tokens = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.positions = nnx.Embed(LENGTH, width, rngs=rngs)
        self.layers = nnx.Sequential(Layer(width, rngs), Layer(width, rngs))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.positions(jnp.arange(LENGTH))
        return self.norm(self.layers(x))


def created(name, width, seed):
    model = Transformer(width, nnx.Rngs(seed))
    number = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    print(f"{name}: {number} parameters, {model.head.kernel.size} of them in the head")
    return model


# The first values of the student are the same in both ways of training.
teacher, initial = created("teacher", TEACHER, 0), created("student", STUDENT, 1)

# %% [markdown]
# ## The losses and the training step
#
# Both are the mean over the tokens that are not padding, in nats. The teacher comes
# first.

# %%
head_kl = mean(masked(linear_kl_divergence))
cross_entropy = mean(masked(optax.softmax_cross_entropy_with_integer_labels))


def alone(model, tokens, targets):
    return cross_entropy(model.head(model(tokens)), targets, mask=targets != PADDING)


def distilled(student, tokens, targets, hidden, weights):
    mask = targets != PADDING
    return head_kl(hidden, weights, student(tokens), student.head.kernel[...], mask=mask)


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
# It does not change any more afterwards. Its hidden states are computed once; the logits
# of the same tokens would take the vocabulary over the width times as much memory.

# %%
optimizer = nnx.Optimizer(teacher, optax.adam(3e-3), wrt=nnx.Param)
step = training_step(alone)
rng = np.random.default_rng(0)
for _ in tqdm(range(STEPS), desc="teacher", mininterval=2):
    batch = rng.integers(len(train[0]), size=BATCH)
    step(teacher, optimizer, train[0][batch], train[1][batch])

weights = teacher.head.kernel[...]
hidden = nnx.jit(lambda model, tokens: model(tokens))(teacher, sequences[:, :-1])
hidden_test, hidden_train = np.split(np.asarray(hidden), [held_out])
print(f"hidden states of the training text: {hidden_train.nbytes / 2**20:.1f} MiB", end="")
print(f", logits: {hidden_train.nbytes / 2**20 * VOCABULARY / TEACHER:.1f} MiB")

# %% [markdown]
# ## The students
#
# The same initial parameters, batches, optimizer and number of steps.


# %%
@nnx.jit
def evaluate(model, *batch):
    """KL(teacher || model) and cross-entropy with the text."""
    return distilled(model, *batch), alone(model, *batch[:2])


validation = *test, hidden_test, weights


def train_student(loss, *of_teacher):
    """The student; step, training loss since the last, validation KL, cross-entropy."""
    student = nnx.clone(initial)
    optimizer = nnx.Optimizer(student, optax.adam(3e-3), wrt=nnx.Param)
    step = training_step(loss)
    rng = np.random.default_rng(1)
    history, losses = [(0, np.nan, *evaluate(student, *validation))], []
    for i in tqdm(range(1, STEPS + 1), desc=loss.__name__, mininterval=2):
        batch = rng.integers(len(train[0]), size=BATCH)
        told = [hidden_train[batch], weights] if loss is distilled else []
        losses.append(step(student, optimizer, train[0][batch], train[1][batch], *told))
        if i % 30 == 0:
            history.append((i, np.mean(losses), *evaluate(student, *validation)))
            losses = []
    return student, np.array(history, float).T


students, runs = {}, {}
for loss in (alone, distilled):
    students[loss.__name__], runs[loss.__name__] = train_student(loss)

# %% [markdown]
# ## Result

# %%
print("                   KL(teacher || student)   cross-entropy with the text")
print(f"teacher                                     {nnx.jit(alone)(teacher, *test):11.4f}")
for name, at in (("alone", 0), ("alone", -1), ("distilled", -1)):
    _, _, kl, nats = runs[name][:, at]
    print(
        f"{'student, ' + (name if at else 'before'):18} {kl:14.4f}           {nats:11.4f}"
    )
print("Nats per token of the validation text.\n")
_, training_loss, *_ = runs["distilled"][:, 1:]
print(f"Training loss of distilled, mean of every {STEPS // len(training_loss)} steps:")
print(*(f"{x:.4f}" for x in training_loss))

# %% [markdown]
# ## The head: value, gradient and memory
#
# Three ways to compute the same loss, and its gradient in the student's hidden states and
# matrix. The tokens of a batch are rows here. XLA says how much temporary memory a
# compiled function needs, besides its arguments and results, without running it. Only
# that of the smallest vocabulary, the one of the models, is run, on validation text.


# %%
def optax_of_logits(hidden_p, weights_p, hidden_q, weights_q):
    log_q = jax.nn.log_softmax(hidden_q @ weights_q)
    return optax.losses.kl_divergence(log_q, jax.nn.softmax(hidden_p @ weights_p))


def kl_of_logits(hidden_p, weights_p, hidden_q, weights_q):
    return kl_divergence(hidden_p @ weights_p, hidden_q @ weights_q)


@jax.default_matmul_precision("highest")  # on a GPU or TPU operands are rounded otherwise
def compiled(form, vocabulary):
    head = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for width in (TEACHER, STUDENT)
        for shape in ((ROWS, width), (width, vocabulary))
    ]
    mask = jax.ShapeDtypeStruct((ROWS,), bool)
    loss = jax.value_and_grad(mean(masked(form)), argnums=(2, 3))
    return jax.jit(loss).lower(*head, mask=mask).compile()


forms = {
    "linear_kl_divergence": linear_kl_divergence,
    "kl_divergence of logits": kl_of_logits,
    "optax of logits": optax_of_logits,
}
ROWS = BATCH * LENGTH
vocabularies = [VOCABULARY * 4**i for i in range(4)]
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

# %%
student, tokens = students["distilled"], slice(0, BATCH)
batch = (
    hidden_test[tokens].reshape(ROWS, TEACHER),
    weights,
    student(test[0][tokens]).reshape(ROWS, STUDENT),
    student.head.kernel[...],
)
mask = (test[1][tokens] != PADDING).reshape(ROWS)
found = {
    name: jax.tree.leaves(heads[name, VOCABULARY](*batch, mask=mask)) for name in forms
}
fused = found.pop("linear_kl_divergence")
print("Largest difference from linear_kl_divergence, relative to the largest entry:")
print("                           value   in hidden states   in the matrix")
apart = {}
for name, others in found.items():
    apart[name] = [np.max(np.abs(x - y)) / np.max(np.abs(y)) for x, y in zip(fused, others)]
    value, in_hidden, in_matrix = apart[name]
    print(f"{name:24} {value:7.1e}   {in_hidden:16.1e}   {in_matrix:13.1e}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), dpi=110, layout="constrained")
for name, colour in (("alone", "tab:gray"), ("distilled", "tab:blue")):
    left.plot(runs[name][0], runs[name][2], "o-", color=colour, label=name)
left.set(yscale="log", xlabel="training step", ylabel="KL(teacher || student) (nats)")
left.set(xlim=(0, STEPS), title="Validation text")
left.set_yticks([0.5, 1, 2, 4])
left.minorticks_off()
left.yaxis.set_major_formatter("{x:g}")
left.legend(frameon=False)
for (name, sizes), colour in zip(memory.items(), ("tab:blue", "tab:orange", "tab:red")):
    right.plot(vocabularies, sizes, "o-", color=colour, label=name)
right.set_xscale("log", base=2)
right.set_yscale("log")
right.set(xticks=vocabularies, xticklabels=[f"{v // 1024}k" for v in vocabularies])
right.set(xlabel="vocabulary", ylabel="temporary memory (MiB)")
right.set(title=f"Value and gradient, {ROWS} tokens")
right.yaxis.set_major_formatter("{x:g}")
right.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
folder = Path(globals().get("__file__", "")).parent  # a notebook runs in its own folder
fig.savefig(folder / "110_large_vocabulary_distillation.png", dpi=150)
print(f"plot: {folder / '110_large_vocabulary_distillation.png'}")

# %% [markdown]
# - KL(teacher || student) on the validation text falls to less than a fifth of what it is
#   before the training, and to less than 0.6 times the lowest value that *alone* has.
# - The distilled student has the lower cross-entropy with the text as well, though its
#   loss never sees the next word: the difference is small, and it is one seed. It also
#   has more data: the teacher learnt from other batches of the same text.
# - The three heads differ by the rounding of float32: less than 1e-5 of the largest
#   entry, in the value and in both gradients.
# - For 64 times the vocabulary `linear_kl_divergence` needs less than 3 times the
#   temporary memory: a few numbers for each token and tile. With logits it is more than
#   40 times as much, and at the largest vocabulary more than 40 times that of
#   `linear_kl_divergence`. The gradient in the matrix has the size of the matrix in any
#   case.
# - The price is that the derivative computes the logits of every tile again. Times are
#   not compared here.

# %%
kl_alone, kl_distilled = runs["alone"][2], runs["distilled"][2]
assert kl_distilled[-1] < 0.2 * kl_distilled[0]
assert kl_distilled[-1] < 0.6 * kl_alone.min()
assert training_loss[-1] < 0.5 * training_loss[0]
assert runs["distilled"][3][-1] < runs["alone"][3][-1]
assert all(max(errors) < 1e-5 for errors in apart.values())
ours, *others = memory.values()
assert vocabularies[-1] == 64 * vocabularies[0] and ours[-1] < 3 * ours[0]
assert all(sizes[-1] > 40 * max(sizes[0], ours[-1]) for sizes in others)
