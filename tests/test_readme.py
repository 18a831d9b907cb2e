"""README: its length, its two commands, and that its numbers were printed by a script."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
TRY_IT = README.split("## Run the example and the tests")[1].split("\n## ")[0]


def test_length():
    assert len(README.splitlines()) <= 120


def test_two_commands():
    assert README.count("```sh") == TRY_IT.count("```sh") == 2
    for block in re.findall(r"```sh\n(.*?)```", TRY_IT, re.S):
        assert "git clone" not in block
        assert "venv" not in block


def test_every_table_of_numbers_is_in_the_committed_results():
    for section, result in (
        ("Accuracy from logits", "accuracy"),
        ("Accuracy of closed forms", "parametric"),
        ("Speed and memory", "speed"),
        ("Linear heads", "heads"),
    ):
        result = ROOT / "benchmarks" / "results" / f"{result}.md"
        printed = result.read_text().splitlines()
        rows = [
            line
            for line in README.split(f"## {section}")[1].split("\n## ")[0].splitlines()
            if line.startswith("|") and not line.startswith("|---")
        ]
        assert len(rows) > 3
        for row in rows:
            assert row in printed


def test_the_training_result_is_in_the_notebook():
    notebook = json.loads((ROOT / "notebooks" / "100_distillation.ipynb").read_text())
    printed = [
        line
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        for line in "".join(output.get("text", "")).splitlines()
    ]
    block = re.search(r"```text\n(.*?)```", TRY_IT, re.S).group(1).splitlines()
    assert len(block) > 3
    for line in block:
        assert line in printed


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target
