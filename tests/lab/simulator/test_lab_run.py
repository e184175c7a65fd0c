from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lengthwise_cli.main import build
from lengthwise_lab.errors import BadChoice, BadWorkload
from lengthwise_lab.reproductions.batch_question import BatchQuestion
from lengthwise_lab.reproductions.recorded_runs import record
from lengthwise_lab.reproductions.ssjf.cross_check import rows
from lengthwise_lab.reproductions.table.details import KEYS, describe
from lengthwise_lab.simulator.comparison import as_markdown, compare_policies
from lengthwise_lab.simulator.question import Question, read_question, read_values, validated
from lengthwise_lab.simulator.summary import summarize

CONFIGS = sorted((Path(__file__).parents[3] / "lab" / "configs").glob("*.*"))
assert CONFIGS
SMALL = """
requests = 300
load = 1.1
seeds = [1, 2]
policies = ["fcfs", "due-3", "sjf-oracle"]
[engine]
kind = "batching"
slots = 4
"""


@pytest.mark.parametrize("config", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_question_in_the_repository_can_be_read(config: Path) -> None:
    values = read_values(config)
    if values.get("kind") == "batches":
        assert validated(config, values, BatchQuestion).policies
    else:
        assert validated(config, values, Question).policies


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('policies = ["fcfs"]', "give either load or rate_per_s"),
        ('policies = ["fcfs"]\nload = -1', "load: Input should be greater than 0"),
        ('policies = ["fcfs"]\nload = 1\nslots = 3', "slots: Extra inputs are not permitted"),
        ('policies = ["fcfs"]\nload = 1\n[engine]\nkind = "gpu"', "engine: Input tag 'gpu'"),
        ('policies = ["fcfs"]\nload = 1\ntenants = [{share = 0.4}]', "must add up to 1"),
        ("policies = [", "cannot read"),
    ],
    ids=["no rate", "negative", "unknown field", "unknown engine", "shares", "not TOML"],
)
def test_a_bad_question_is_refused_and_the_field_is_named(
    tmp_path: Path, text: str, want: str
) -> None:
    path = tmp_path / "question.toml"
    path.write_text(text)
    with pytest.raises(BadWorkload, match=want.replace("[", r"\[")):
        read_question(path)


def test_an_unknown_policy_is_refused_when_the_question_is_read(tmp_path: Path) -> None:
    path = tmp_path / "question.json"
    path.write_text(json.dumps({"policies": ["fastest"], "load": 1}))
    with pytest.raises(BadChoice, match="fastest"):
        read_question(path)


def test_the_same_question_gives_the_same_result_twice(tmp_path: Path) -> None:
    path = tmp_path / "question.toml"
    path.write_text(SMALL)
    first, second = (compare_policies(read_question(path), None) for _ in range(2))
    for result in (first, second):
        for found in result["policies"].values():
            del found["cost"]
    assert first == second
    assert as_markdown(first).count("| due-3 |") == 4


def test_a_run_and_the_table_give_the_same_figures_of_the_same_requests(tmp_path: Path) -> None:
    """The histograms and the times of every request are two ways to the same figures."""
    path = tmp_path / "question.toml"
    path.write_text(SMALL.replace("seeds = [1, 2]", "seeds = [1]"))
    question = read_question(path)
    workload = question.workload(1, None)
    found = record(workload, workload.fitted_predictor(), question.engine, "due-3")
    histograms, times = summarize(found.result), describe([found.times], policy="due-3")
    for figure in ("mean", "p50", "p99", "max"):
        for got, want in (
            (histograms["completion_s"], times["completion_s"]),
            (histograms["fairness"]["slowdown"], times["fairness"]["slowdown"]),
            *((histograms["buckets"][name], times["buckets"][name]) for name in ("1-64", "65-256")),
        ):
            # A bin is 1 % wide, and numpy interpolates between two requests where we take one.
            assert got[figure] == pytest.approx(want[figure], rel=0.12 if figure == "p99" else 0.03)
    assert histograms["fairness"]["jain_of_slowdowns"] == pytest.approx(
        times["fairness"]["jain_of_slowdowns"], rel=1e-4
    )
    for share in ("share_waiting_over_10_times_its_length", "share_waiting_over_100_s"):
        assert histograms["starvation"][share] == pytest.approx(
            times["starvation"][share], rel=1e-4
        )
    assert histograms["starvation"]["max_lag_s"] == pytest.approx(times["starvation"]["max_lag_s"])


def test_the_command_writes_json_markdown_and_a_picture(tmp_path: Path) -> None:
    question, markdown, png = (tmp_path / name for name in ("q.toml", "a.md", "a.png"))
    question.write_text(SMALL)
    flags = ["--json", "--markdown", str(markdown), "--png", str(png)]
    done = CliRunner().invoke(build(), ["lab", "run", str(question), *flags])
    assert done.exit_code == 0, done.output
    means = {
        name: found["completion_s"]["mean"]
        for name, found in json.loads(done.stdout)["policies"].items()
    }
    assert means["sjf-oracle"] < means["due-3"] < means["fcfs"]
    assert "| sjf-oracle |" in markdown.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")


BATCHES = """
kind = "batches"
prompts = 300
group = 100
policies = ["as-they-come", "sorted", "table-restarted", "table-resumed", "memory"]
"""


def test_a_question_about_batches_compares_the_ways_to_make_them(tmp_path: Path) -> None:
    question, markdown, png = (tmp_path / name for name in ("q.toml", "a.md", "a.png"))
    question.write_text(BATCHES)
    flags = ["--json", "--markdown", str(markdown), "--png", str(png)]
    done = CliRunner().invoke(build(), ["lab", "run", str(question), *flags])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["policies"]
    assert all(set(KEYS) <= set(one) for one in found.values())
    speed = {way: one["answers_per_s"] for way, one in found.items()}
    assert speed["memory"] > speed["table-resumed"] > speed["table-restarted"]
    assert speed["table-restarted"] > speed["as-they-come"]
    assert "| memory |" in markdown.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_bad_question_about_batches_is_refused_and_the_field_is_named(tmp_path: Path) -> None:
    question = tmp_path / "q.toml"
    question.write_text(BATCHES + "slots = 3\n")
    done = CliRunner().invoke(build(), ["lab", "run", str(question)])
    assert done.exit_code != 0
    assert "slots" in str(done.exception) + done.output


@pytest.mark.slow
def test_the_clean_check_of_ssjf_agrees_with_the_other_simulator_at_high_load() -> None:
    """Lengths from published quantiles, and noise with the tau of SSJF's classes."""
    found = {(row.name[:10], row.setting): row for row in rows(None)}
    for setting in ("8 slots, load 1.2, clean simulator", "1 slot, load 0.9, clean simulator"):
        assert found["oracle SJF", setting].agrees
