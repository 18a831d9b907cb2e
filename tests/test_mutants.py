"""The list of mutants: each edits a line of the library, and dies by a test that exists."""

import pathlib
import re

import mutants

FOLDER = pathlib.Path(__file__).resolve().parent


def test_each_edits_one_line_of_the_library():
    assert not list(mutants.problems())


def test_each_names_a_test():
    for mutant in mutants.MUTANTS:
        file, *function = re.split(r"::|\[", mutant.test)[:2]
        text = (FOLDER / file).read_text()
        assert all(f"\ndef {name}(" in text for name in function), mutant


def test_each_was_killed_when_it_was_last_run():
    rows = mutants.written(FOLDER / "mutants.md")
    assert rows.keys() == {mutant.name for mutant in mutants.MUTANTS}
    assert all("| killed |" in row for row in rows.values())
