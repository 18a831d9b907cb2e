"""A release: its version and its day, and README as a package index shows it."""

import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_one_version_and_one_day():
    project = SETTINGS["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    released = re.search(r"^version: (.+)\ndate-released: (.+)$", citation, re.M)
    newest = re.search(r"^## (\d.*) - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released.groups() == newest.groups()
    assert released.group(1) == project["version"]


def test_links_on_a_package_index():
    """Each leads to a file of the release; `.ci/run wheel` looks at what is built."""
    text = readme = (ROOT / "README.md").read_text()
    hook = SETTINGS["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for each in hook["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    project = SETTINGS["project"]
    source = project["urls"]["Source"]
    raw = source.replace("github.com", "raw.githubusercontent.com") + "/v$HFPR_VERSION/"
    links = re.findall(r"(!?)\[[^]]*\]\(([^)#]+)", text)
    assert len(links) == readme.count("](") > 10
    for picture, link in links:
        path = link.removeprefix(raw if picture else f"{source}/blob/v$HFPR_VERSION/")
        assert (ROOT / path).is_file(), link
