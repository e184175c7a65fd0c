"""The compiled loop: its cache notices every change, and its parts depend on few others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from lengthwise_lab.simulator.core import compiled as compiling
from lengthwise_lab.simulator.core.compiled import SOURCES, compiled
from lengthwise_queue.scheduling import policy

CORE = Path(compiling.__file__).parent
SIMULATOR = CORE.parent
LAB = SIMULATOR.parents[1]
CORE_MODULES = sorted(CORE.glob("*.py"))
assert CORE_MODULES


def imported_from(source: Path) -> set[str]:
    """Return the modules that a file imports, with `TYPE_CHECKING` imports."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{source} has a relative import"
            # `from package import module` imports the module, too.
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in modules if is_module(name)} or {node.module}
    return found


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or a package of the lab; other names are not looked up."""
    path = LAB.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("source", CORE_MODULES, ids=lambda path: path.stem)
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
    imported = {name for source in SIMULATOR.rglob("*.py") for name in imported_from(source)}
    assert "lengthwise_lab.simulator.core.compiled" in imported
    assert {name for name in imported if "reproductions" in name} == set()


KINDS = {
    "STATIC", "SRPT", "PREDICTED_SRPT", "GITTINS", "REMAINING", "LTR", "PERCEPTION", "MLFQ",
    "HRRN", "SSJF_AGING", "INSERTION", "VTC", "FAIR",
}  # fmt: skip


def test_only_the_modules_that_policies_names_use_the_kinds_of_orders() -> None:
    # So that a new policy touches no other module; the docstring of policies.py lists these.
    users = set()
    for source in CORE_MODULES:
        names = {
            node.id
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
            if isinstance(node, ast.Name)
        }
        if names & KINDS:
            users.add(source.stem)
    assert users == {"orders", "tenants", "waiting_queue"}
