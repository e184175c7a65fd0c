"""The compiled loop: its cache notices every change, and each part knows only its own subject."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from lengthwise_lab.simulator.core import compiled as compiling
from lengthwise_lab.simulator.core.compiled import SOURCES, compiled
from lengthwise_queue.scheduling import policy

CORE = Path(compiling.__file__).parent
SIMULATOR = CORE.parent


def imported_from(source: Path) -> set[str]:
    """Return the modules that a file imports, with `TYPE_CHECKING` imports."""
    tree = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
    return {node.module or "" for node in tree if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("source", sorted(CORE.glob("*.py")), ids=lambda path: path.stem)
def test_everything_that_compiled_code_reads_is_hashed(source: Path) -> None:
    # A constant of another folder was compiled in without being hashed: a change of it was ignored.
    own = {name for name in imported_from(source) if name.startswith("lengthwise_")}
    hashed = {f"lengthwise_lab.simulator.core.{path.stem}" for path in SOURCES}
    assert own <= hashed | {policy.__name__}
    assert source in SOURCES


def test_the_formula_of_the_product_is_hashed() -> None:
    assert Path(policy.__file__) in SOURCES


def test_a_function_whose_file_is_not_hashed_is_not_compiled() -> None:
    def double(x: float) -> float:
        return 2 * x

    with pytest.raises(ValueError, match=r"test_compiled\.py is not among the hashed sources"):
        compiled(double)


def test_the_simulator_imports_nothing_of_the_reproductions() -> None:
    for source in SIMULATOR.rglob("*.py"):
        assert not any("reproductions" in name for name in imported_from(source)), source


KINDS = {
    "STATIC", "SRPT", "PREDICTED_SRPT", "GITTINS", "REMAINING", "LTR", "PERCEPTION", "MLFQ",
    "HRRN", "SSJF_AGING", "INSERTION", "VTC", "FAIR",
}  # fmt: skip


def test_only_the_modules_that_policies_names_know_the_kinds_of_orders() -> None:
    # So that a new policy touches no other module; the docstring of policies.py lists these.
    knowing = set()
    for source in CORE.glob("*.py"):
        names = {
            node.id
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
            if isinstance(node, ast.Name)
        }
        if names & KINDS:
            knowing.add(source.stem)
    assert knowing == {"orders", "tenants", "waiting_queue"}
