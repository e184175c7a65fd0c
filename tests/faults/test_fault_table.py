"""docs/operate/faults.md lists every fault test once, and only tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lengthwise_lab.soak.key_audit import BOUNDED

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/operate/faults.md").read_text()


def defined_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def named() -> set[tuple[str, str]]:
    return set(re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", PAGE))


def test_each_of_the_37_faults_has_one_row_with_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*)$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 38))
    assert [number for number, row in rows if "::test_" not in row] == []


@pytest.mark.slow
def test_every_test_that_the_table_names_exists() -> None:
    missing = {(file, name) for file, name in named() if name not in defined_in(TESTS / file)}
    assert missing == set()


def test_every_test_of_faults_is_in_the_table() -> None:
    files = [path for path in (TESTS / "faults").glob("test_*.py") if path != Path(__file__)]
    defined = {(f"faults/{path.name}", name) for path in files for name in defined_in(path)}
    assert defined
    assert defined - named() == set()


def test_the_bounded_keys_are_those_that_the_soak_allows() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert dict(rows) == BOUNDED
