"""The comparison of static and sequence batches on a real, tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from lengthwise_lab.loadtest.workload import chat_body
from lengthwise_lab.static_batches import NoModel, load, measure


@pytest.mark.slow
def test_every_variant_gives_the_same_tokens_and_sequence_batches_waste_fewer(
    tiny_llama: Path,
) -> None:
    bodies = [chat_body(f"Number {at}", max_tokens=40 + 10 * at) for at in range(12)]
    started: list[str] = []
    got = measure(
        load(tiny_llama, threads=1),
        bodies,
        batch=4,
        quantile=0.7,
        seed=1,
        on_variant=started.append,
    )
    variants = {one.name: one for one in got}
    assert list(variants) == started
    assert len({one.output_tokens for one in got}) == 1
    assert got[0].ratio == 1
    assert got[0].failures == 0
    assert variants["sequence, exact"].effective > variants["static"].effective
    assert variants["static, finished rows leave"].effective > variants["static"].effective


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra transformers")
    with pytest.raises(NoModel, match=str(tmp_path)):
        load(tmp_path, threads=1)
