"""The bundled model's records: reading, layout and the split by prompt."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lengthwise_training.bundled.dataset import (
    LengthRecord,
    build_dataset,
    read_records,
    validation_rows,
)
from lengthwise_training.data.sources import REDISTRIBUTABLE_SOURCES
from lengthwise_training.data.splits import near_duplicates


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(r) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_both_kinds_of_file_are_read_and_other_files_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"prompt": "p", "model": "m", "output_tokens": 3}])
    write(tmp_path / "b.jsonl.gz", [{"prompt": "q", "model": "m", "output_tokens": [4, 5]}])
    write(tmp_path / "c.jsonl", [{"prompt": "no lengths here"}])
    (tmp_path / "d.csv").write_text("1,2\n")
    got = read_records(tmp_path, sources=None)
    assert got == [LengthRecord("p", "m", "own", (3,)), LengthRecord("q", "m", "own", (4, 5))]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "model": "m", "output_tokens": 3, "degenerate": True},
        {"prompt": " ", "model": "m", "output_tokens": 3},
        {"prompt": "p", "model": "m", "output_tokens": 0},
        {"prompt": "p", "model": "openai/davinci", "output_tokens": 3},
        {"prompt": "p", "output_tokens": 3},
    ],
    ids=["ran away", "blank", "empty answer", "a base model", "no model"],
)
def test_a_row_without_information_is_left_out(tmp_path: Path, row: dict[str, Any]) -> None:
    good = {"prompt": "good", "model": "m", "output_tokens": 3}
    write(tmp_path / "a.jsonl", [row, good])
    assert [r.prompt for r in read_records(tmp_path, sources=None)] == ["good"]


def test_messages_are_rendered_as_in_service_without_the_system_prompt(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    write(tmp_path / "a.jsonl", [{"messages": turns, "model": "m", "output_tokens": 3}])
    assert read_records(tmp_path, sources=None)[0].prompt == "Hi"


@pytest.mark.parametrize("word", ["alpaca", "sharegpt", "vicuna"])
def test_sources_that_may_not_be_redistributed_do_not_train_the_bundled_model(word: str) -> None:
    assert not [s for s in REDISTRIBUTABLE_SOURCES if word in s.lower()]


def test_only_the_named_sources_are_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": s, "model": "m", "output_tokens": 3, "source": s}
        for s in ("castillo/Mbpp", "castillo/Alpaca", "castillo/ShareGPT")
    ]
    write(tmp_path / "a.jsonl", rows)
    assert [r.source for r in read_records(tmp_path)] == ["castillo/Mbpp"]


def test_a_folder_without_records_is_an_error_that_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="output_tokens"):
        read_records(tmp_path)


def test_each_prompt_is_listed_once_and_short_samples_repeat() -> None:
    data = build_dataset(
        [LengthRecord("p", "a", "s", (1, 2, 3)), LengthRecord("p", "b", "s", (7,))]
    )
    assert data.prompts == ["p"]
    assert data.llms == ["a", "b"]
    assert data.samples.tolist() == [[1, 2, 3], [7, 7, 7]]


def test_no_prompt_is_on_both_sides_of_the_split_and_the_share_is_as_requested() -> None:
    records = [LengthRecord(f"prompt {i}", llm, "s", (1,)) for i in range(2000) for llm in "ab"]
    data = build_dataset(records)
    held = validation_rows(data)
    sides = {(int(p), bool(h)) for p, h in zip(data.prompt_index, held, strict=True)}
    assert len(sides) == 2000
    assert 0.16 < held.mean() < 0.24


def test_the_split_does_not_move_when_records_are_added() -> None:
    few = build_dataset([LengthRecord(f"prompt {i}", "a", "s", (1,)) for i in range(50)])
    many = build_dataset([LengthRecord(f"prompt {i}", "a", "s", (1,)) for i in range(500)][::-1])
    side = dict(
        zip(many.prompts, validation_rows(many)[np.argsort(many.prompt_index)], strict=True)
    )
    assert [side[p] for p in few.prompts] == validation_rows(few).tolist()


def test_rewritten_copies_of_a_problem_stay_on_one_side() -> None:
    base = "I have a data frame with columns one two three and want to sort it by column "
    texts = [base + c + " in place please" for c in "abcdef"]
    other = "How do I draw a circle on a canvas without any library at all"
    leaders = near_duplicates([*texts, other])
    assert set(leaders[:6]) == {min(texts)}
    assert leaders[6] == other
    records = [LengthRecord(t, "m", "castillo/DS1000", (1,)) for t in texts]
    assert len(set(validation_rows(build_dataset(records)).tolist())) == 1
