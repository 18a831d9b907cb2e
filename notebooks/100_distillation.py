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
# # Distillation of a digit classifier
#
# A teacher of 38410 parameters has learnt handwritten digits from 1347 labelled
# images. A student of 1210 parameters has 50 labelled images, 5 of each digit. It is
# trained in three ways:
#
# - **alone**: cross-entropy on the 50 labels;
# - **hard**: that, plus cross-entropy with the teacher's most probable class on all
#   1347 images;
# - **soft** (distillation): that of *alone*, plus KL(teacher || student) on all 1347
#   images.
#
# *Alone* has less data: the others see 1297 images more, and what the teacher says of
# them, which it learnt from their labels. *Hard* and *soft* differ in the loss only.

# %%
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import kl_jax
from kl_jax import kl_divergence, mean, tempered

for module in (jax, flax, optax, kl_jax):
    print(f"{module.__name__:7} {module.__version__}")
print(f"device  {jax.devices()[0].device_kind}")

# %%
SEEDS, PER_CLASS, STEPS, BATCH, TEMPERATURE = 10, 5, 1000, 64, 4.0

images, digits = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)  # 8 x 8 pixels, from 0 to 16
x_train, x_test, y_train, y_test = train_test_split(
    images, digits, test_size=450, stratify=digits, random_state=0
)
print(f"{len(x_train)} training images, {len(x_test)} test images")

# %% [markdown]
# ## The losses and the training step
#
# With teacher logits $a$ and student logits $b$, $p = \mathrm{softmax}(a / T)$ and
# $q = \mathrm{softmax}(b / T)$, the distillation loss of an image is
#
# $$T^2 \, \mathrm{KL}(p \,\|\, q) = T^2 \sum_k p_k \log \frac{p_k}{q_k},$$
#
# a number of nats times $T^2$. The teacher is the first argument, the student the
# second. `mean` averages a loss over the batch. Each is built once, here, not in the
# loop.

# %%
distillation = mean(tempered(kl_divergence, TEMPERATURE))
cross_entropy = mean(optax.softmax_cross_entropy_with_integer_labels)


def soft(student, x, teacher_logits, x_labelled, labels):
    label_loss = cross_entropy(student(x_labelled), labels)
    return label_loss + distillation(teacher_logits, student(x))


def hard(student, x, teacher_logits, x_labelled, labels):
    label_loss = cross_entropy(student(x_labelled), labels)
    return label_loss + cross_entropy(student(x), jnp.argmax(teacher_logits, axis=-1))


def alone(student, x, teacher_logits, x_labelled, labels):
    return cross_entropy(student(x_labelled), labels)


def training_step(loss):
    def step(model, optimizer, *batch):
        value, grads = nnx.value_and_grad(loss)(model, *batch)
        optimizer.update(model, grads)
        return value

    return step


# %% [markdown]
# ## The teacher


# %%
class MLP(nnx.Module):
    def __init__(self, width, rngs):
        init = nnx.initializers.he_uniform()
        self.hidden = nnx.Linear(64, width, kernel_init=init, rngs=rngs)
        self.out = nnx.Linear(width, 10, kernel_init=init, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def parameters(model):
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


teacher = MLP(512, nnx.Rngs(0))
print(f"parameters: teacher {parameters(teacher)}", end=", ")
print(f"student {parameters(MLP(16, nnx.Rngs(0)))}")
optimizer = nnx.Optimizer(teacher, optax.adam(1e-3), wrt=nnx.Param)
step = nnx.jit(training_step(lambda model, x, y: cross_entropy(model(x), y)))
rng = np.random.default_rng(0)
for _ in tqdm(range(500), desc="teacher", mininterval=2):
    batch = rng.integers(len(x_train), size=128)
    step(teacher, optimizer, x_train[batch], y_train[batch])

# The teacher does not change any more: its logits are computed once.
teacher_train, teacher_test = np.asarray(teacher(x_train)), np.asarray(teacher(x_test))
teacher_accuracy = np.mean(teacher_test.argmax(-1) == y_test)
agreement = np.mean(teacher_train.argmax(-1) == y_train)
print(f"teacher's accuracy: training {agreement:.4f}, test {teacher_accuracy:.4f}")

# %% [markdown]
# ## The students
#
# A seed fixes the initial parameters, the 50 labelled images and the batches, the same
# for each way of training. `nnx.vmap` trains all seeds at once.

# %%
fidelity = mean(kl_divergence)  # KL(teacher || student) at T = 1, in nats


@nnx.vmap
def create(key):
    student = MLP(16, nnx.Rngs(key))
    return student, nnx.Optimizer(student, optax.adam(3e-3), wrt=nnx.Param)


@nnx.jit
@nnx.vmap
def evaluate(student):
    logits = student(x_test)
    return jnp.mean(jnp.argmax(logits, -1) == y_test), fidelity(teacher_test, logits)


def train(loss):
    """Steps, and test accuracy and KL of shape (evaluations, seeds)."""
    rng = np.random.default_rng(1)
    chosen = [
        [rng.choice(np.flatnonzero(y_train == c), PER_CLASS, False) for c in range(10)]
        for _ in range(SEEDS)
    ]
    few = np.reshape(chosen, (SEEDS, 10 * PER_CLASS))
    students, optimizers = create(jax.random.split(jax.random.key(1), SEEDS))
    step = nnx.jit(nnx.vmap(training_step(loss)))
    step = nnx.cached_partial(step, students, optimizers)  # traverses them only once
    history = [(0, *evaluate(students))]
    for i in tqdm(range(1, STEPS + 1), desc=loss.__name__, mininterval=2):
        many = rng.integers(len(x_train), size=(SEEDS, BATCH))
        step(x_train[many], teacher_train[many], x_train[few], y_train[few])
        if i % 20 == 0:
            history.append((i, *evaluate(students)))
    return tuple(map(np.stack, zip(*history)))


runs = {loss.__name__: train(loss) for loss in (alone, hard, soft)}

# %% [markdown]
# ## Result

# %%
accuracy = {name: 100 * run[1][-1] for name, run in runs.items()}
kl = {name: run[2][-1] for name, run in runs.items()}

print("              test accuracy (%)   KL(teacher || student) (nats)")
print(f"teacher       {100 * teacher_accuracy:6.2f}")
for name in runs:
    points, nats = accuracy[name], kl[name]
    print(f"{name:12}  {points.mean():6.2f} +- {points.std(ddof=1):.2f}", end="      ")
    print(f"{nats.mean():7.4f} +- {nats.std(ddof=1):.4f}")
print(f"Mean +- standard deviation of {SEEDS} seeds on {len(x_test)} images.\n")


def difference(of, other):
    """soft - other, paired by seed: the mean and its standard error."""
    d = of["soft"] - of[other]
    return d.mean(), d.std(ddof=1) / np.sqrt(SEEDS)


for other in ("alone", "hard"):
    points, nats = difference(accuracy, other), difference(kl, other)
    print(f"soft - {other:5}  {points[0]:+6.2f} +- {points[1]:.2f}      ", end="")
    print(f"{nats[0]:+7.4f} +- {nats[1]:.4f}")
print("Mean +- standard error over seeds, paired.")

# %%
colours = {"alone": "tab:gray", "hard": "tab:orange", "soft": "tab:blue"}
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), dpi=110, layout="constrained")
for i, (name, colour) in enumerate(colours.items()):
    x = i + np.linspace(-0.15, 0.15, SEEDS)
    left.plot(x, accuracy[name], "o", color=colour, alpha=0.6)
    left.hlines(accuracy[name].mean(), i - 0.28, i + 0.28, color=colour, lw=2)
    steps, _, nats = runs[name]
    right.plot(steps, np.median(nats, 1), color=colour, label=name)
    right.fill_between(steps, nats.min(1), nats.max(1), color=colour, alpha=0.2, lw=0)
left.axhline(100 * teacher_accuracy, color="black", ls="--", lw=1)
left.text(-0.4, 100 * teacher_accuracy + 0.3, "teacher", va="bottom")
left.set(xticks=range(3), xticklabels=colours, xlim=(-0.45, 2.45), ylim=(None, 100))
left.locator_params(axis="y", integer=True)
left.set(xlabel="training", ylabel="test accuracy (%)", title="Each seed, and the mean")
right.set(yscale="log", xlabel="training step", ylabel="KL(teacher || student) (nats)")
right.set(xlim=(0, STEPS), title="Test images: median and range over seeds")
right.yaxis.set_major_formatter("{x:g}")
right.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
folder = Path(globals().get("__file__", "")).parent  # a notebook runs in its own folder
fig.savefig(folder / "100_distillation.png", dpi=150)
print(f"plot: {folder / '100_distillation.png'}")

# %% [markdown]
# - Distillation raises the accuracy of the student by more than 10 points. What the
#   student is told of 1297 more images accounts for that, not the softness of the
#   targets: the accuracy with hard targets is within 1.5 points. The difference here is
#   2 or 3 of the 450 images, too few to rank the two. (The teacher is right on more
#   than 99 % of the training images, so its hard targets are nearly the true labels.)
# - What soft targets add here is the distribution: KL(teacher || student) on the test
#   images is less than 0.6 times that with hard targets, and less than a tenth of the
#   lowest mean that *alone* has at any evaluation.
# - The errors are those of the student's seed. There is one teacher, one split, one
#   temperature and one learning rate.

# %%
gain, gain_error = difference(accuracy, "alone")
over_hard, _ = difference(accuracy, "hard")
kl_change, kl_change_error = difference(kl, "hard")
assert teacher_accuracy > 0.95 and agreement > 0.99
assert gain > 10 and gain > 2 * gain_error
assert abs(over_hard) < 1.5
assert kl_change < -2 * kl_change_error
assert kl["soft"].mean() < 0.6 * kl["hard"].mean()
assert kl["soft"].mean() < 0.1 * runs["alone"][2].mean(axis=1).min()
