"""Rows as `lengthwise train` reads them: cut answers, dialogues, folds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lengthwise_training.examples import TEST_FOLD, Row, draw, layout, parse_row, read_rows


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
        ({"finish": ["length", "stop"], "cap": 90}, (True, True)),
    ],
    ids=["unmarked", "finish of all", "finish of each", "censored", "cap", "two marks"],
)
def test_an_answer_is_cut_if_any_mark_says_so(more: dict[str, Any], want: tuple[bool, ...]) -> None:
    row = parse_row(record(**more))
    assert isinstance(row, Row)
    assert row.cut == want


def test_a_cap_that_is_told_outdoes_the_row() -> None:
    row = parse_row(record(cap=1000), cap_tokens=5)
    assert isinstance(row, Row)
    assert row.cut == (True, True)


@pytest.mark.parametrize(
    ("bad", "want"),
    [
        (record(degenerate=True), "marked degenerate"),
        (record(prompt="  "), "no prompt"),
        (record(output_tokens=None), "no model or no output_tokens"),
        (record(output_tokens=[0]), "no answer"),
        (record(finish=["stop"]), "finish or censored is not as long as output_tokens"),
    ],
    ids=["degenerate", "empty", "no lengths", "no answer", "marks do not fit"],
)
def test_a_row_that_is_left_out_says_why(bad: dict[str, Any], want: str) -> None:
    assert parse_row(bad) == want


def test_a_dialogue_is_read_as_serving_reads_it_or_left_out() -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Write a poem"},
    ]
    row = parse_row(record(prompt=None, messages=turns))
    assert isinstance(row, Row)
    assert row.prompt == "user: Hi\n\nassistant: Hello!\n\nuser: Write a poem"
    assert parse_row(record(prompt=None, messages=turns), rounds="single") == (
        "a later round of a dialogue"
    )
    first = parse_row(record(prompt=None, messages=turns[:1]), rounds="single")
    assert isinstance(first, Row)
    assert first.prompt == "Hi"


def test_samples_of_one_prompt_and_llm_are_pooled_and_keep_their_marks() -> None:
    rows = [
        Row("p", "b", "own", (3,), (False,)),
        Row("p", "a", "own", (7,), (True,)),
        Row("p", "b", "own", (9, 4), (True, False)),
    ]
    got = layout(rows)
    assert got.prompts == ["p"]
    assert got.llms == ["a", "b"]
    assert got.tokens[got.known].tolist() == [3, 9, 4, 7]
    assert got.cut[got.known].tolist() == [False, True, False, True]
    assert got.lengths().tolist() == [3, 9, 4, 7]


def test_near_duplicates_never_stand_on_both_sides_of_the_split() -> None:
    text = "Given a data frame with columns a and b and c, return the rows where all are unique "
    rows = [Row(f"{text} variant {i}", "a", "castillo/DS1000", (10,), (False,)) for i in range(30)]
    assert len(set(layout(rows).folds.tolist())) == 1


def test_the_folds_are_by_prompt_and_stay_put_when_rows_are_drawn() -> None:
    rows = [Row(f"prompt {i}", llm, "own", (i + 1,), (False,)) for i in range(200) for llm in "ab"]
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


def test_evaluate_gets_the_very_same_rows() -> None:
    rows = [
        Row("p", "a", "x", (3, 5, 7), (False,) * 3),
        Row("q", "b", "y", (9,), (False,)),
    ]
    got = layout(rows).as_dataset()
    assert got.samples.tolist() == [[3, 5, 7], [9, 9, 9]]
    assert got.row_sources == ["x", "y"]
    assert got.llm_index.tolist() == [0, 1]
    assert np.array_equal(got.prompt_index, [0, 1])


def test_a_file_without_rows_is_refused_with_an_example(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "no lengths", "model": "a"}) + "\n")
    with pytest.raises(FileNotFoundError, match=r'"output_tokens": \[12, 15\]'):
        read_rows(path)
