"""A workload depends only on its seed, and invalid files are refused with the line."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.loadtest.arrivals import ArrivalKind, ArrivalProcess
from lengthwise_lab.loadtest.workload import bundled_bodies, mix, read_bodies


def poisson(rate_per_s: float) -> ArrivalProcess:
    return ArrivalProcess(kind=ArrivalKind.POISSON, rate_per_s=rate_per_s)


def text(body: dict[str, object]) -> str:
    return str(body["messages"][0]["content"])  # type: ignore[index]


def test_half_of_the_bundled_prompts_are_short_questions_and_all_differ() -> None:
    bodies = bundled_bodies(max_tokens=400)
    kinds = [kind for kind, _ in bodies]
    assert kinds.count("short") == kinds.count("long") == 36
    assert len({text(body) for _, body in bodies}) == len(bodies)


def test_the_length_of_a_bundled_prompt_does_not_reveal_the_length_of_its_answer() -> None:
    # A predictor that only counts characters must do badly: some of the longest prompts are short
    # questions, and some of the shortest are long tasks.
    sizes = {
        kind: sorted(len(text(b)) for k, b in bundled_bodies(max_tokens=400) if k == kind)
        for kind in ("short", "long")
    }
    assert sizes["short"][-5] > sizes["long"][-3]
    assert sizes["long"][2] < median(sizes["short"])


def test_all_bundled_requests_have_the_same_cap_and_fixed_sampling() -> None:
    for _, body in bundled_bodies(max_tokens=123):
        assert (body["max_tokens"], body["temperature"], body["seed"]) == (123, 0, 1)


def test_a_seed_always_gives_the_same_workload_and_another_seed_another_one() -> None:
    bodies = bundled_bodies(max_tokens=10)
    first = mix(bodies, count=100, seed=3, arrivals=poisson(5))
    assert first == mix(bodies, count=100, seed=3, arrivals=poisson(5))
    assert [r.body for r in first] != [r.body for r in mix(bodies, count=100, seed=4)]


def test_every_body_is_used_before_one_is_used_again() -> None:
    bodies = bundled_bodies(max_tokens=10)
    requests = mix(bodies, count=2 * len(bodies), seed=1)
    for half in (requests[: len(bodies)], requests[len(bodies) :]):
        assert len({text(dict(r.body)) for r in half}) == len(bodies)


def test_a_burst_is_sent_at_once_and_a_rate_is_kept_in_the_mean() -> None:
    bodies = bundled_bodies(max_tokens=10)
    assert {r.due_to_send_s for r in mix(bodies, count=50, seed=1)} == {0.0}
    times = [r.due_to_send_s for r in mix(bodies, count=5001, seed=1, arrivals=poisson(10))]
    assert times == sorted(times)
    assert times[-1] / 5000 == pytest.approx(0.1, rel=0.05)


def test_another_arrival_process_leaves_the_requests_as_they_are() -> None:
    bodies = bundled_bodies(max_tokens=10)
    calm = mix(bodies, count=30, seed=1, arrivals=poisson(1))
    assert [r.body for r in calm] == [r.body for r in mix(bodies, count=30, seed=1)]


@pytest.mark.parametrize("count", [0, -1])
def test_an_impossible_workload_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="need count >= 1"):
        mix(bundled_bodies(max_tokens=10), count=count, seed=1)


def test_a_file_gives_prompts_and_messages_and_its_own_caps(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        '{"prompt": "Hello", "max_tokens": 7, "output_tokens": 3}\n\n'
        '{"messages": [{"role": "user", "content": "Hi"}]}\n'
    )
    (_, first), (_, second) = read_bodies(path, max_tokens=50)
    assert (text(first), first["max_tokens"]) == ("Hello", 7)
    assert (text(second), second["max_tokens"]) == ("Hi", 50)
    assert "output_tokens" not in first


@pytest.mark.parametrize(
    ("content", "want"),
    [
        pytest.param('{"prompt": "a"}\n{', "line 2: not JSON", id="broken JSON"),
        pytest.param('{"text": "a"}', "line 1: needs `prompt`", id="no prompt"),
        pytest.param("[]", "line 1: needs `prompt`", id="not an object"),
        pytest.param("\n", "has no request", id="empty"),
    ],
)
def test_a_bad_file_is_refused_with_the_line(tmp_path: Path, content: str, want: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(BadWorkload, match=want):
        read_bodies(path, max_tokens=50)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadWorkload, match=r"cannot read .*nowhere"):
        read_bodies(tmp_path / "nowhere.jsonl", max_tokens=50)
