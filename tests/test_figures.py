"""Figures in docstrings and on pages, against the files of benchmarks/results."""

import itertools
import pathlib
import re

import pytest

import kl_jax
from kl_jax import parametric

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def tables(name):
    """The tables of a result: the cells of the head, and those of each row."""
    lines = [*(RESULTS / f"{name}.md").read_text().splitlines(), ""]
    table = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            yield table[0], table[2:]
            table = []


def worst_kl(dtype):
    """In the tables by noise, by outcomes and kind, and of rows alone and in batches."""
    for head, rows in tables("accuracy"):
        if head[0] == f"KL from logits, {dtype}":
            yield from (row[1] for row in rows)
        elif head[0] == f"kl_jax, {dtype}, outcomes" and head[1]:
            yield from (cell for row in rows for cell in row[1:])
        elif head[0] == f"kl_jax, {dtype}, outcomes":
            yield from (cell for row in rows if row[1] == "KL" for cell in row[2:5])


def worst_sibling(label, dtype):
    """By noise, and of rows alone and in batches."""
    for head, rows in tables("accuracy"):
        if head[0] == f"kl_jax, {dtype}, 2 to 32 outcomes":
            yield from (
                cell for row in rows if row[0].startswith(label) for cell in row[1:]
            )
        elif head[0] == f"kl_jax, {dtype}, outcomes" and not head[1]:
            yield from (
                cell for row in rows if row[1].startswith(label) for cell in row[2:5]
            )


def worst_elementwise(name, dtype):
    for head, rows in tables("accuracy"):
        if head[0] == dtype:
            yield from (row[2] for row in rows if row[0] == name)


def printed(name, dtype):
    labels = {
        "jeffreys_divergence": "Jeffreys",
        "jensen_shannon_divergence": "Jensen-Shannon",
        "skew_kl_divergence": "skew KL",
        "renyi_divergence": "Renyi",
    }
    if name == "kl_divergence":
        cells = worst_kl(dtype)
    elif name in labels:
        cells = worst_sibling(labels[name], dtype)
    else:
        cells = worst_elementwise(name, dtype)
    return max(map(float, cells))


# "(benchmarks/accuracy.py: 4.5, and 5.1 in float64)" and its like.
STATED = re.compile(
    r"\(benchmarks/accuracy\.py: (?:([\d.]+)(?: in float32)?,(?: and)? ([\d.]+) in float64"
    r"|([\d.]+) in both precisions)\)"
)


def stated(text):
    """Pairs of figures, float32 and float64; each mention of the script must have one."""
    text = " ".join(text.split())
    found = STATED.findall(text)
    assert len(found) == text.count("(benchmarks/accuracy.py:")
    return [tuple(map(float, (a or both, b or both))) for a, b, both in found]


NAMES = [
    name
    for name in sorted({*kl_jax.__all__, "sum"})
    if "(benchmarks/" in (getattr(kl_jax, name).__doc__ or "") and name != "parametric"
]


def test_which_docstrings_have_figures():
    assert len(NAMES) >= 7


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name):
    (figures,) = stated(getattr(kl_jax, name).__doc__)
    assert figures == tuple(printed(name, dtype) for dtype in ("float32", "float64"))


def test_closed_forms():
    """The column ULP: the worst of a family's classes in float32. `multivariate_normal` is
    promised to a condition number of 30, and its class of 1e3 stands in the text.
    """
    of_float32 = (t for t in tables("parametric") if t[0][:2] == ["float32", "p and q"])
    rows = itertools.chain.from_iterable(rows for _, rows in of_float32)
    worst = {"normal_log_variance": 2.5}  # of tests/test_parametric.py alone
    for name, kind, found, *_ in rows:
        if (name, kind.split(",")[0]) != ("multivariate_normal", "condition number 1e3"):
            worst[name] = max(worst.get(name, 0.0), float(found))
    table = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \|$", parametric.__doc__, re.M)
    assert len(table) == len(re.findall(r"^\| `", parametric.__doc__, re.M)), (
        "a row without a figure"
    )
    assert worst == {name: float(ulp) for name, ulp in table}


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page(path):
    """A page says nothing of errors in ULP, times or memory but what a result says."""
    text = path.read_text()
    for figures in stated(text):
        assert figures == tuple(printed("kl_divergence", d) for d in ("float32", "float64"))
    # Nor a table of numbers: those of benchmarks/results are pages as they are.
    assert not re.search(r"^\|.*\|\s*[\d.]+(e[+-]?\d+)?\s*\|$", text, re.M)
    # Beside those in parentheses, each figure stands twice.
    prose = re.sub(r"\(benchmarks/[^)]*\)", "", text)
    for ulp in re.findall(r"([\d.]+)\s+(?:ULP|in float)", prose):
        assert ulp in (m for pair in stated(text) for m in map(str, pair)), ulp
    assert not re.search(r"\d\s*(ms|MiB|GiB|TFLOP)\b", prose)
