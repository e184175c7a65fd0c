from __future__ import annotations

import re
from pathlib import Path

import pytest

from lengthwise_contract.states import TERMINAL, TRANSITIONS, Event, JobState
from lengthwise_store import lua_loader
from lengthwise_store.store import JobStore

PAGE = Path(__file__).parents[3] / "docs/concepts/life-of-a-job.md"


def test_every_legal_move_is_declared_by_its_script_and_no_script_declares_another() -> None:
    # If this breaks, states.py or a lua/*.lua header was changed without the other.
    declared = sorted(
        (str(source), script.name, str(target))
        for script in lua_loader.load_all().values()
        for source, target in script.moves
    )
    want = sorted(
        (str(source), str(event), str(target))
        for (source, event), targets in TRANSITIONS.items()
        for target in targets
    )
    assert declared == want


def test_every_event_is_a_method_of_the_store() -> None:
    assert [event for event in Event if not hasattr(JobStore, event)] == []


def test_the_page_describes_every_move_and_no_other() -> None:
    rows = re.findall(r"^\| ([a-z, ]+) → ([a-z]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    described = {(source, target) for sources, target in rows for source in sources.split(", ")}
    moves = {
        (str(source or "none"), str(target))
        for (source, _), targets in TRANSITIONS.items()
        for target in targets
    }
    assert described == moves


def test_no_move_leaves_a_terminal_state_but_the_redrive_of_a_dead_letter() -> None:
    left = [(source, event) for source, event in TRANSITIONS if source in TERMINAL]
    assert left == [(JobState.FAILED, Event.REDRIVE)]


def test_every_state_can_be_reached() -> None:
    reached = {target for targets in TRANSITIONS.values() for target in targets}
    assert reached == set(JobState)


@pytest.mark.parametrize("name", [*Event, *lua_loader.QUEUE_SCRIPTS])
def test_no_script_reads_keys_or_arguments_by_position_after_naming_them(name: str) -> None:
    # `ARGV[i]` in a loop over pieces is the one use of an index that a name cannot replace.
    body = lua_loader.load(name).text.split("]]", 1)[1]
    assert "KEYS[" not in body
    assert body.count("ARGV[") <= 2
