"""Figures in docstrings and on pages, against the files of benchmarks/results, and what
docstrings promise against the tests that they name.
"""

import ast
import functools
import inspect
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


def worst_other(name, dtype):
    for head, rows in tables("other"):
        yield from (row[head.index(dtype)] for row in rows if row[0] == name)


def printed(script, name, dtype):
    labels = {
        "jeffreys_divergence": "Jeffreys",
        "jensen_shannon_divergence": "Jensen-Shannon",
        "skew_kl_divergence": "skew KL",
        "renyi_divergence": "Renyi",
    }
    if script == "other_accuracy":
        cells = worst_other(name, dtype)
    elif name == "kl_divergence":
        cells = worst_kl(dtype)
    elif name in labels:
        cells = worst_sibling(labels[name], dtype)
    else:
        cells = worst_elementwise(name, dtype)
    return max(map(float, cells))


# "(benchmarks/accuracy.py: 4.5, and 5.1 in float64)" and its like.
NUMBER = r"(\d+(?:\.\d+)?(?:e-\d+)?)"
STATED = re.compile(
    rf"benchmarks/(\w+)\.py: (?:{NUMBER}(?: in float32)?,(?: and)? {NUMBER} in float64"
    rf"|{NUMBER} in both precisions)\)"
)


def stated(text):
    """Scripts, each with figures in float32 and float64; each mention of one has these."""
    text = " ".join(text.split())
    found = STATED.findall(text)
    assert len(found) == len(re.findall(r"benchmarks/\w+\.py:", text))
    return [(script, float(a or both), float(b or both)) for script, a, b, both in found]


def assert_printed(name, text):
    for script, *figures in stated(text):
        assert figures == [printed(script, name, d) for d in ("float32", "float64")]


def errors():
    """What each docstring of the library says of its error, with its name."""
    for path in sorted((ROOT / "kl_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            found = re.search(r"^Error: .*(?:\n +.*)*", ast.get_docstring(node) or "", re.M)
            package = path.parent.name if path.stem == "__init__" else path.stem
            if found:
                yield getattr(node, "name", package), found[0]


ERRORS = dict(errors())


def test_what_docstrings_say_of_errors_is_found():
    docs = {name: inspect.getdoc(getattr(kl_jax, name)) for name in kl_jax.__all__}
    stating = {name for name in docs if re.search("^Error: ", docs[name], re.M)}
    assert stating - {"parametric"} <= set(ERRORS)
    assert len(ERRORS) > 20
    assert sum("benchmarks/" in text for text in ERRORS.values()) >= 15


@functools.cache
def promises(path):
    """The numbers in comparisons, in tolerances and in tables of a file of tests."""
    numbers = set()
    for node in ast.walk(ast.parse(path.read_text())):
        targets = [getattr(x, "value", x) for x in getattr(node, "targets", [])]
        names = [getattr(x, "id", "") for x in targets]
        if (
            isinstance(node, ast.Assert | ast.Compare)
            or (isinstance(node, ast.keyword) and node.arg in ("rtol", "atol"))
            or any(x.isupper() or x in ("atol", "bound", "close") for x in names)
        ):
            inside = ast.walk(node)
            numbers |= {x.value for x in inside if isinstance(x, ast.Constant)}
    return numbers


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_printed_or_promised(name):
    """A figure is the worst that a script has printed; or else it stands in an assertion of
    a file of tests that is named beside it, and that tests the function.
    """
    assert_printed(name, ERRORS[name])
    prose = re.sub(r"benchmarks/\w+\.py:[^)]*\)", "", ERRORS[name])
    tests = [ROOT / x for x in re.findall(r"tests/\w+\.py", prose)]
    assert all(re.search(rf"\b{name}\b", path.read_text()) for path in tests)
    promised = set().union(*map(promises, tests))
    for figure in re.findall(rf"(?<![-^.\w]){NUMBER}(?=\s+ULP)|\b(\de-\d+)", prose):
        assert float("".join(figure)) in promised, figure


@pytest.mark.parametrize("module", [parametric, parametric.cross])
def test_closed_forms(module):
    """The column ULP: the worst of a family's classes in float32. `multivariate_normal` is
    promised to a condition number of 30, and its class of 1e3 stands in the text.
    """
    result = "cross" if module is parametric.cross else "parametric"
    worst = {}
    for head, rows in tables(result):
        if head[:2] != ["float32", "p and q"]:
            continue
        for row in rows:
            name, kind, found = row[0], row[1].split(",")[0], row[head.index("kl_jax")]
            if (name, kind) != ("multivariate_normal", "condition number 1e3"):
                worst[name] = max(worst.get(name, 0.0), float(found))
    table = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \|$", module.__doc__, re.M)
    assert len(table) == len(re.findall(r"^\| `", module.__doc__, re.M)), (
        "a row without a figure"
    )
    for name in {name for name, _ in table} - set(worst):
        worst[name] = printed("other_accuracy", name, "float32")
    assert worst == {name: float(ulp) for name, ulp in table}


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page(path):
    """A page says nothing of errors in ULP, times or memory but what a result says."""
    text = path.read_text()
    assert_printed("kl_divergence", text)
    # Nor a table of numbers: those of benchmarks/results are pages as they are.
    assert not re.search(r"^\|.*\|\s*[\d.]+(e[+-]?\d+)?\s*\|$", text, re.M)
    # Beside those in parentheses, each figure stands twice.
    prose = re.sub(r"benchmarks/\w+\.py:[^)]*\)", "", text)
    for ulp in re.findall(r"([\d.]+)\s+(?:ULP|in float)", prose):
        assert ulp in (m for _, *pair in stated(text) for m in map(str, pair)), ulp
    assert not re.search(r"\d\s*(ms|MiB|GiB|TFLOP)\b", prose)


def test_what_accuracy_and_speed_says_to_read_first():
    """In words there: who is negative, who is slower, and who takes less memory."""
    of_logits = [t for t in tables("accuracy") if t[0][0].startswith("KL from logits")]
    assert len(of_logits) == 2
    for head, rows in of_logits:
        assert head[1] == "kl_jax"
        assert len(head) == 6
        for row in rows:
            assert all(("< 0" in cell) == (i > 0) for i, cell in enumerate(row[1:])), row
    # Of KL: the other divergences follow.
    values = next(rows for head, rows in tables("speed") if head[0] == "float32, value")
    times = {(row[0], row[1]): float(row[4]) for row in values}
    memory = {(row[0], row[1]): float(row[5]) for row in values if row[5]}
    for shape in {shape for shape, _ in times}:
        assert 0.25 < times[shape, "torch.compile"] < 0.5
        assert times[shape, "optax"] > 1 or shape == "[4096, 1000]"
        assert memory[shape, "kl_jax"] < memory[shape, "optax"] / 2
