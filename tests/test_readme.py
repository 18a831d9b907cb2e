"""README: its length, its two commands and its links."""

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


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target
