"""Rows as `lengthwise train` reads them: cut answers, dialogues, folds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lengthwise_training.data.examples import TEST_FOLD, draw, layout, read_rows, usable_row
from lengthwise_training.data.rows import BadLines, LengthRow, row_of


def record(**more: Any) -> dict[str, Any]:
    return {"prompt": "Say hi", "model": "lab/a", "output_tokens": [5, 90], **more}


@pytest.mark.parametrize(
    ("more", "want"),
    [
        ({}, (False, False)),
        ({"finish": "length"}, (True, True)),
        ({"finish": ["stop", "length"]}, (False, True)),
        ({"censored": [True, False]}, (True, False)),
        ({"cap": 90}, (False, True)),
    ],
    ids=["unmarked", "finish of all", "finish of each", "censored", "cap"],
)
def test_an_answer_is_cut_if_any_mark_is_set(more: dict[str, Any], want: tuple[bool, ...]) -> None:
    assert row_of(record(**more)).censored == want


def test_a_given_cap_overrides_the_row() -> None:
    row = usable_row(row_of(record(cap=1000)), cap_tokens=5)
    assert isinstance(row, LengthRow)
    assert row.censored == (True, True)


def test_marks_that_do_not_fit_the_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="1 reasons for 2 samples"):
        row_of(record(finish=["stop"]))


def test_rows_that_are_left_out_are_counted_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        *[record(prompt=f"good {i}") for i in range(20)],
        record(degenerate=True),
        record(output_tokens=0),
        record(model="lab/other"),
        record(prompt=" "),
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    kept, left_out = read_rows(path, llms=["lab/a"])
    assert len(kept) == 20
    assert left_out == {
        "marked degenerate": 1,
        "no answer": 1,
        "another LLM": 1,
        "unusable": 1,
    }


def test_a_dialogue_is_read_as_serving_reads_it_or_left_out() -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Write a poem"},
    ]
    row = row_of(record(prompt=None, messages=turns))
    assert usable_row(row) == row
    assert row.prompt == "user: Hi\n\nassistant: Hello!\n\nuser: Write a poem"
    assert usable_row(row, rounds="single") == "a later round of a dialogue"
    first = row_of(record(prompt=None, messages=turns[:1]))
    assert usable_row(first, rounds="single") == first
    assert first.prompt == "Hi"


def test_samples_of_one_prompt_and_llm_are_pooled_and_keep_their_marks() -> None:
    rows = [
        LengthRow("p", "b", "own", (3,), (False,)),
        LengthRow("p", "a", "own", (7,), (True,)),
        LengthRow("p", "b", "own", (9, 4), (True, False)),
    ]
    got = layout(rows)
    assert got.prompts == ["p"]
    assert got.llms == ["a", "b"]
    assert got.tokens[got.known].tolist() == [3, 9, 4, 7]
    assert got.cut[got.known].tolist() == [False, True, False, True]
    assert got.lengths().tolist() == [3, 9, 4, 7]


def test_near_duplicates_are_never_on_both_sides_of_the_split() -> None:
    text = "Given a data frame with columns a and b and c, return the rows where all are unique "
    rows = [
        LengthRow(f"{text} variant {i}", "a", "castillo/DS1000", (10,), (False,)) for i in range(30)
    ]
    assert len(set(layout(rows).folds.tolist())) == 1


def test_the_folds_are_by_prompt_and_do_not_change_when_rows_are_drawn() -> None:
    rows = [
        LengthRow(f"prompt {i}", llm, "own", (i + 1,), (False,)) for i in range(200) for llm in "ab"
    ]
    whole = layout(rows)
    fold = {whole.prompts[p]: f for p, f in zip(whole.prompt_index, whole.folds, strict=True)}
    part = draw(whole, sample=60, test_rows=15, seed=0)
    assert (part.folds == TEST_FOLD).sum() == 15
    assert (part.folds != TEST_FOLD).sum() == 60
    for prompt, mine in zip(part.prompt_index, part.folds, strict=True):
        assert fold[part.prompts[prompt]] == mine
    again = draw(whole, sample=60, test_rows=15, seed=0)
    assert again.fingerprint() == part.fingerprint()
    assert draw(whole, sample=60, test_rows=15, seed=1).fingerprint() != part.fingerprint()


def test_the_table_for_scoring_has_the_same_rows() -> None:
    rows = [
        LengthRow("p", "a", "x", (3, 5, 7), (False, False, True)),
        LengthRow("q", "b", "y", (9,), (False,)),
    ]
    assert layout(rows).as_table().rows == rows


def test_a_file_without_rows_is_refused_with_an_example(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "no lengths", "model": "a"}) + "\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadLines, match="no `output_tokens`"):
        read_rows(path)
    with pytest.raises(BadLines, match=r'"output_tokens": \[12, 15\]'):
        read_rows(tmp_path / "empty")
