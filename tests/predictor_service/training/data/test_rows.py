"""Files of lengths in unknown condition."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lengthwise_training.data.rows import BadLines, LengthTable, read, without_prompts_of

GOOD: dict[str, Any] = {"prompt": "hello", "model": "m", "output_tokens": 5}


def written(folder: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_plain_and_zipped_files_hold_one_number_or_many_samples(tmp_path: Path) -> None:
    many = GOOD | {"output_tokens": [5, 7], "source": "s"}
    for name in ("a.jsonl", "a.jsonl.gz"):
        [one, two] = read(written(tmp_path, GOOD, many, name=name)).rows
        assert (one.samples, one.source, two.samples, two.source) == ((5,), "own", (5, 7), "s")


def test_a_chat_is_rendered_as_in_service_and_kept_with_its_facts(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    row = {"messages": chat, "model": "m", "output_tokens": 5, "application": "greeter"}
    [got] = read(written(tmp_path, row | {"facts": {"n": 1, "max_tokens": "many"}})).rows
    assert got.prompt == "hi"  # a system prompt would hide what distinguishes the requests
    assert got.messages == tuple(chat)
    assert (got.application, got.facts) == ("greeter", {"n": 1})


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON object is required"),
        ({"model": "m", "output_tokens": 5}, "neither a `prompt`"),
        (GOOD | {"prompt": 7}, "`prompt` is int"),
        (GOOD | {"prompt": "  "}, "the prompt is empty"),
        ({"prompt": "a", "model": "m"}, "no `output_tokens`"),
        (GOOD | {"output_tokens": []}, "an empty list"),
        (GOOD | {"output_tokens": "5"}, "holds '5'"),
        (GOOD | {"output_tokens": -1}, "holds -1"),
        (GOOD | {"output_tokens": [3, 2.5]}, "holds 2.5"),
        (GOOD | {"output_tokens": True}, "holds True"),
        (GOOD | {"output_tokens": float("nan")}, "holds nan"),
        ('{"prompt": "a", "model": "m", "output_tokens": 1' + "0" * 400 + "}", "holds "),
        ("[" * 100_000, "not JSON"),
        (GOOD | {"model": 3}, "`model` is 3"),
        (GOOD | {"output_tokens": [1, 2], "censored": [True]}, "1 marks for 2 samples"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_a_bad_line_is_named_by_its_number_and_fault(tmp_path: Path, line: Any, want: str) -> None:
    path = written(tmp_path, *[GOOD] * 20, "", line)
    found = read(path)
    assert len(found.rows) == 20
    [fault] = found.bad
    assert fault.startswith("line 22: ")
    assert want in fault
    with pytest.raises(BadLines, match="line 22"):
        read(path, strict=True)


def test_a_byte_of_another_encoding_spoils_its_line_and_not_the_file(tmp_path: Path) -> None:
    # One Latin-1 letter in 300 lines once refused all of them, with no line's number.
    path = written(tmp_path, *[GOOD] * 20)
    with path.open("ab") as file:
        file.write(b'{"prompt": "caf\xe9", "model": "m", "output_tokens": 3}\n')
    found = read(path)
    assert len(found.rows) == 20
    [fault] = found.bad
    assert fault.startswith("line 21: not UTF-8")


def test_a_file_cut_in_the_middle_of_its_zip_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, *[GOOD | {"prompt": f"p{i}"} for i in range(200)], name="a.jsonl.gz")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(BadLines, match="cannot read"):
        read(path)


def test_a_file_that_is_mostly_unusable_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadLines, match="line 2"):
        read(written(tmp_path, GOOD, "nonsense"))
    with pytest.raises(BadLines, match="it is empty"):
        read(written(tmp_path))
    with pytest.raises(BadLines, match="cannot read"):
        read(tmp_path / "nowhere.jsonl")


def test_an_answer_at_the_cap_is_censored(tmp_path: Path) -> None:
    [row] = read(written(tmp_path, GOOD | {"output_tokens": [5, 512], "cap": 512})).rows
    assert row.censored == (False, True)


def test_degenerate_rows_are_left_out_by_default(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, GOOD | {"degenerate": True})
    assert (len(read(path).rows), read(path).degenerate) == (1, 1)
    assert len(read(path, keep_degenerate=True).rows) == 2


def test_training_rows_about_scored_prompts_are_left_out(tmp_path: Path) -> None:
    train = LengthTable(read(written(tmp_path, GOOD, GOOD | {"prompt": "other"})).rows)
    data = LengthTable(read(written(tmp_path, GOOD | {"prompt": "hello ", "model": "x"})).rows)
    assert without_prompts_of(train, data).prompts == ["other"]


def test_the_table_holds_each_prompt_once(tmp_path: Path) -> None:
    rows = read(written(tmp_path, GOOD, GOOD | {"model": "n"}, GOOD | {"prompt": "b"})).rows
    table = LengthTable(rows)
    assert table.prompts == ["hello", "b"]
    assert table.prompt_index.tolist() == [0, 0, 1]
    assert table.where(np.array([False, True, True])).llms.tolist() == ["n", "m"]
