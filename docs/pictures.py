"""The pictures of docs/how_it_works.md. `python docs/pictures.py` writes docs/pictures.

Needs matplotlib, of the extra `notebooks`.
"""

import pathlib

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent / "pictures"
plt.rcParams |= {
    "figure.figsize": (6.4, 2.9),
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "svg.hashsalt": "kl_jax",  # the same file from each run
    "axes.spines.top": False,
    "axes.spines.right": False,
}
BLUE, RED, GREY = "#1f77b4", "#d62728", "#888888"


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def pair(noise):
    """Two distributions over 12 outcomes, in float64."""
    logits, change = np.random.default_rng(0).normal(size=(2, 12))
    return softmax(logits), softmax(logits + noise * change)


def terms():
    """The same divergence as a sum of terms of both signs, and of terms of one."""
    p, q = pair(1e-3)
    delta = np.log(q / p)
    centred = delta - p @ delta
    figure, (left, right) = plt.subplots(1, 2)
    for axes, values, title in (
        (left, p * np.log(p / q), "p log(p / q)"),
        (right, p * (np.expm1(centred) - centred), "p (e$^d$ - 1 - d), d centred"),
    ):
        axes.bar(range(12), values, color=np.where(values < 0, RED, BLUE))
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(f"{title}\nthe largest is {np.abs(values).max():.0e}", fontsize=9)
        axes.set_xlabel("outcome")
        axes.ticklabel_format(axis="y", scilimits=(0, 0))
    figure.suptitle(
        f"Logits that differ by 1e-3: KL = {p @ np.log(p / q):.1e}", fontsize=10
    )
    return figure


def digits():
    """Digits that are left of the two sums when the terms have those of float32."""
    noises = 10.0 ** np.linspace(-7, 0, 29)
    textbook, ours = [], []
    for noise in noises:
        p, q = pair(noise)
        delta = np.log(q / p)
        exact = np.log1p(p @ (np.expm1(delta - p @ delta) - (delta - p @ delta)))
        textbook.append(np.abs(p * delta).max() / exact)
        d = delta - p @ delta
        ours.append((p * (np.expm1(d) - d)).max() / exact)
    figure, axes = plt.subplots()
    for sizes, colour, label in (
        (textbook, RED, "terms of both signs"),
        (ours, BLUE, "terms that are not negative"),
    ):
        axes.semilogx(
            noises, np.maximum(7.2 - np.log10(sizes), 0), color=colour, label=label
        )
    axes.set_xlabel("noise by which the logits differ")
    axes.set_ylabel("digits left of 7.2")
    axes.set_ylim(0, 8)
    axes.legend(frameon=False)
    return figure


def boxes(axes, y, edges, labels, colour):
    for left, right, label in zip(edges[:-1], edges[1:], labels, strict=True):
        box = plt.Rectangle(
            (left + 0.06, y), right - left - 0.12, 0.62, fill=False, ec=colour
        )
        axes.add_patch(box)
        axes.text((left + right) / 2, y + 0.31, label, ha="center", va="center", fontsize=8)


def merge():
    """Outcomes, tiles and the whole row, and the other places of the same merge."""
    figure, axes = plt.subplots(figsize=(6.4, 2.6))
    boxes(axes, 0, np.arange(13), [f"a$_{{{i}}}$ b$_{{{i}}}$" for i in range(1, 13)], GREY)
    boxes(axes, 1.2, [0, 4, 8, 12], ["mass of p, q : p, KL inside"] * 3, BLUE)
    boxes(axes, 2.4, [2, 10], ["KL of the masses + mass x KL inside"], BLUE)
    for x in range(12):
        axes.plot([x + 0.5, x + 0.5], [0.66, 1.16], color=GREY, linewidth=0.8)
    for x, to in ((2, 4), (6, 6), (10, 8)):
        axes.plot([x, to], [1.86, 2.36], color=BLUE, linewidth=0.8)
    for y, label in (
        (0, "logits"),
        (1.2, "tiles, devices,\ntop k and tail"),
        (2.4, "the row"),
    ):
        axes.text(-0.3, y + 0.31, label, ha="right", va="center", fontsize=8)
    axes.set(xlim=(-2.6, 12.1), ylim=(-0.1, 3.1))
    axes.axis("off")
    return figure


def generators():
    """p f(r), over p: never negative, whatever r = log(q / p)."""
    r = np.linspace(-2.5, 1.5, 300)
    mixed = np.log((1 + np.exp(r)) / 2)
    figure, axes = plt.subplots()
    for label, values in (
        ("KL: e$^r$ - 1 - r", np.expm1(r) - r),
        ("reverse KL: r e$^r$ - e$^r$ + 1", r * np.exp(r) - np.expm1(r)),
        ("Jeffreys: r (e$^r$ - 1)", r * np.expm1(r)),
        ("Jensen-Shannon", (-mixed + np.exp(r) * (r - mixed)) / 2),
    ):
        axes.plot(r, values, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="r = log(q / p)", ylim=(-0.1, 3))
    axes.legend(frameon=False)
    return figure


def transforms():
    """Values and weights of three devices: sums first, one division last."""
    devices = [[2.0, 4.0, 1.0], [3.0], [5.0, 5.0]]
    figure, axes = plt.subplots(figsize=(6.4, 2.4))
    for number, values in enumerate(devices):
        y = 2 - number
        axes.text(
            -0.2, y + 0.3, f"device {number + 1}", ha="right", va="center", fontsize=8
        )
        boxes(axes, y, range(len(values) + 1), [f"{v:g}" for v in values], BLUE)
        mean = np.mean(values)
        text = f"sum {np.sum(values):g}, weight {len(values)}     (mean {mean:.2f})"
        axes.text(3.3, y + 0.3, text, va="center", fontsize=8)
    total, weight = sum(map(sum, devices)), sum(map(len, devices))
    wrong = np.mean([np.mean(values) for values in devices])
    axes.text(
        8.4, 1.5, f"{total:g} / {weight} = {total / weight:.2f}", color=BLUE, fontsize=9
    )
    axes.text(8.4, 0.9, f"mean of means: {wrong:.2f}", color=RED, fontsize=9)
    axes.set(xlim=(-1.6, 11.4), ylim=(-0.1, 2.8))
    axes.axis("off")
    return figure


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for picture in (terms, digits, merge, generators, transforms):
        path = FOLDER / f"{picture.__name__}.svg"
        picture().savefig(path, metadata={"Date": None})
        path.write_text("\n".join(map(str.rstrip, path.read_text().splitlines())) + "\n")
