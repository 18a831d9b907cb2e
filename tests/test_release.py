"""A release: its version and its day are written in three files."""

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_one_version_and_one_day():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    released = re.search(r"^version: (.+)\ndate-released: (.+)$", citation, re.M)
    newest = re.search(r"^## (\d.*) - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released.groups() == newest.groups()
    assert released.group(1) == project["version"]
