"""What is on the site beside docs/: files of the repository, each under its own path.

README is the front page, and no text stands in two places. Links to docs/ and to notebooks
lead to their pages, and formulas become MathML, for which a browser needs no script.
"""

import html
import pathlib
import re

from latex2mathml.converter import convert
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
RESULTS = sorted(ROOT.glob("benchmarks/results/*.md"))
PAGES = [*map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
PAGES += [ROOT / "tests" / "mutants.md", *RESULTS]
PLOTS = sorted(ROOT.glob("benchmarks/results/*.svg"))


def uri(path):
    return path.relative_to(ROOT).as_posix()


def on_config(config):
    """A new notebook or result needs no line in mkdocs.yml."""
    sections = {title: pages for entry in config.nav for title, pages in entry.items()}
    sections["Tutorials"] += [uri(path.with_suffix(".md")) for path in NOTEBOOKS]
    sections["Accuracy and speed"] += [uri(path) for path in RESULTS]


def on_files(files, config):
    for path in PAGES + PLOTS:
        files.append(File.generated(config, uri(path), abs_src_path=str(path)))
    for path in NOTEBOOKS:
        page, resources = MarkdownExporter().from_filename(
            str(path), resources={"unique_key": path.stem}
        )
        uris = {uri(path.with_suffix(".md")): page}
        uris |= {f"notebooks/{name}": x for name, x in resources["outputs"].items()}
        for name, content in uris.items():
            files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown, page, **_):
    """Links, from where a file is in the repository to where it is here."""
    if page.file.generated_by is None:
        return markdown
    markdown = re.sub(r"\]\(docs/", "](", markdown)
    return re.sub(r"(\]\(notebooks/\w+)\.ipynb\)", r"\1.md)", markdown)


def on_page_content(content, **_):
    """The TeX that `arithmatex` has found, in delimiters of two characters, as MathML."""

    def mathml(match):
        tex = html.unescape(match[2]).strip()
        display = "inline" if match[1] == "span" else "block"
        formula = convert(tex[2:-2].strip(), display=display)
        return formula if display == "inline" else f'<div class="formula">{formula}</div>'

    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', mathml, content, flags=re.S)
