"""The registry of tasks: one objective for each, and no other module that depends on a task."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

import lengthwise_training
from lengthwise_training.objectives.tasks import OBJECTIVES, Task


def test_every_task_has_one_objective_of_its_own() -> None:
    assert list(OBJECTIVES) == list(Task)
    assert len({id(objective) for objective in OBJECTIVES.values()}) == len(Task)


def test_no_other_module_depends_on_which_task_it_is() -> None:
    # A head was once spread over six modules, each with its own `if task == ...`.
    root = Path(lengthwise_training.__file__).parent
    modules = {p for p in root.rglob("*.py") if re.search(r"\bTask\.[A-Z]", p.read_text("utf-8"))}
    assert modules == {root / "objectives" / "tasks.py"}
