"""The docstrings' own sections, for mkdocstrings, which knows Args and Raises alone.

For Markdown Boundary, Gradient, Error and the others are one paragraph, an example is a
quotation three deep, and a table with rulers, as of `kl_div`, one line.
"""

import re
import textwrap

import griffe

NAMES = "Boundary|Gradient|Error|Source|Returns|Warns|Shapes|Dtypes"
SECTION = re.compile(rf"^({NAMES}):\s*(.+(?:\n(?!\w+:).+)*)", re.M)
EXAMPLE = re.compile(r"^>>> .+(?:\n.+)*", re.M)
TABLE = re.compile(
    r"^ *===[= ]+\n(?:.*\n)+?(?: *===[= ]+\n)(?:.*\n)+?(?: *===[= ]+)$", re.M
)


def markdown(docstring):
    """The docstring, of which Args and Raises are left to mkdocstrings."""

    def section(match):
        text = re.sub(r"^ +", "", match[2], flags=re.M)
        return f'\n<span class="doc-section-title">{match[1]}:</span> {text}\n'

    def fenced(match):
        language = "pycon" if match[0].startswith(">>>") else "text"
        return f"\n```{language}\n{textwrap.dedent(match[0])}\n```\n"

    return SECTION.sub(section, TABLE.sub(fenced, EXAMPLE.sub(fenced, docstring)))


class Sections(griffe.Extension):
    """Rewrites docstrings before mkdocstrings parses them."""

    def on_object(self, *, obj, **_):
        if not obj.is_alias and obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
