"""Executes the percent notebooks into their .ipynb pairs, or checks the pairs.

    python notebooks/execute.py            executes every notebook, writes its .ipynb
    python notebooks/execute.py --check    fails unless each .ipynb holds its .py's cells,
                                           executed with this version of kl_jax

Needs the `notebooks` extra. What changes from run to run is left out of the .ipynb:
metadata, timestamps, all but the last state of a progress bar.
"""

import argparse
import importlib.metadata
import pathlib
import re

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).resolve().parent
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def merged(outputs):
    """Outputs with adjacent writes to one stream joined, and overwritten lines dropped."""
    kept = []
    for output in outputs:
        output.pop("metadata", None) if output.output_type == "stream" else None
        last = kept[-1] if kept else None
        if (
            last
            and output.output_type == last.output_type == "stream"
            and (output.name == last.name)
        ):
            last.text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            lines = output.text.split("\n")
            output.text = "\n".join(line.split("\r")[-1] for line in lines)
    return kept


def execute(source):
    notebook = jupytext.read(source)
    resources = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        resources=resources,
    )
    client.execute()
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", {}
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)
    nbformat.validate(notebook)
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def check(source):
    cells = lambda path: [(c.cell_type, c.source) for c in jupytext.read(path).cells]
    pair = source.with_suffix(".ipynb")
    if not pair.exists() or cells(source) != cells(pair):
        raise SystemExit(f"{pair.name} is not the executed pair of {source.name}")
    code = [c for c in jupytext.read(pair).cells if c.cell_type == "code"]
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        raise SystemExit(f"{pair.name} was not executed from top to bottom")
    text = "".join(x.get("text", "") for c in code for x in c.outputs)
    version = importlib.metadata.version("kl_jax")
    if re.findall(r"^kl_jax +(\S+)$", text, re.M) != [version]:
        raise SystemExit(f"{pair.name} was not executed with kl_jax {version}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    one = check if parser.parse_args().check else execute
    for source in sorted(FOLDER.glob("[0-9]*.py")):
        print(source.name, flush=True)
        one(source)


if __name__ == "__main__":
    main()
