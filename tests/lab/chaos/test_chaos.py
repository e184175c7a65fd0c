"""Chaos runs with real processes: a short one without violations, and one with a planted bug."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import uvloop
from typer.testing import CliRunner

from lengthwise_cli.main import build
from lengthwise_lab.chaos.checks import checker
from lengthwise_lab.chaos.checks.report import ChaosReport
from lengthwise_lab.chaos.clients import workload
from lengthwise_lab.chaos.faults import USUAL_KINDS, FaultKind, plan
from lengthwise_lab.chaos.history import read
from lengthwise_lab.chaos.nemesis_actions import OTHER_SETTINGS
from lengthwise_lab.chaos.run import ChaosPlan, run
from lengthwise_lab.chaos.system.processes import Sizes

#: The kinds of faults that a short run has time for; long runs have the slow ones, too.
QUICK = (
    FaultKind.KILL_WORKER,
    FaultKind.KILL_SERVICE,
    FaultKind.KILL_BROKER,
    FaultKind.STOP_WORKER,
    FaultKind.FAILOVER,
    FaultKind.DROP_REPLIES,
    FaultKind.CLIENT_KILL,
    FaultKind.SCRIPT_FLUSH,
    FaultKind.ENGINE_500,
    FaultKind.ENGINE_OTHER_MODEL,
    FaultKind.HALF_OPEN_ENGINE,
    FaultKind.QUEUE_POLICY,
    FaultKind.SETTINGS_RACE,
)


def chaos(folder: Path, **changes: object) -> ChaosReport:
    """Carry out a run and return its report."""
    return uvloop.run(run(ChaosPlan(folder=folder, **changes), print))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_short_run_with_quick_faults_violates_no_guarantee(tmp_path: Path) -> None:
    report = chaos(tmp_path, seed=7, jobs=320, kinds=QUICK, per_kind=1)
    assert report.ok, report.as_json()
    assert report.faults.keys() >= set(QUICK)
    # The run means something: jobs were answered, some twice, some overtook, some were read.
    assert report.acknowledged > 250
    assert report.states["succeeded"] > 200
    assert report.executed_more_than_once > 0
    assert report.overtakes > 0
    assert report.reconnects > 0
    assert report.settings_written > 0
    assert report.batches > 0


@pytest.mark.slow
def test_a_worker_that_ignores_a_lost_lease_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join([str(Path(__file__).parent), *sys.path]))
    careless = Sizes(worker_module="careless_worker", workers=2)
    report = chaos(tmp_path, seed=3, jobs=160, kinds=(FaultKind.STOP_WORKER,) * 4, sizes=careless)
    assert not report.ok
    assert report.violations["accepted_twice"] or report.violations["stream_mixed"]
    # The history alone gives the same result.
    again = checker.check(read(tmp_path / "history.jsonl"))
    assert again.violations == report.violations


def test_the_command_checks_a_history_and_exits_with_1_if_it_has_a_violation(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.jsonl"
    lines = [
        {"op": "run", "type": "ok", "jobs": 1},
        {"op": "submit", "type": "invoke", "ref": "a", "key": None, "spec": {}},
        {"op": "submit", "type": "ok", "ref": "a", "key": None, "id": "1", "due_ms": 0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = CliRunner().invoke(build(), ["bench", "chaos", "--history", str(path), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["lost"] == 1


def test_the_plan_follows_from_the_seed_and_a_long_run_has_every_kind_thirty_times() -> None:
    faults = plan(7, 20_000)
    assert faults == plan(7, 20_000)
    assert faults != plan(8, 20_000)
    assert {sum(f.kind is kind for f in faults) for kind in USUAL_KINDS} == {30}
    assert sum(f.kind is FaultKind.LONG_OUTAGE for f in faults) == 1
    assert faults == sorted(faults, key=lambda fault: fault.at)
    assert all(0 <= fault.at < 20_000 for fault in faults)


@pytest.mark.parametrize(
    ("jobs", "per_kind", "want"),
    [(320, None, 8), (2_000, None, 29), (10_000, None, 40), (99, 3, 87), (100_000, None, 1161)],
)
def test_a_shorter_run_has_fewer_faults_unless_a_number_is_given(
    jobs: int, per_kind: int | None, want: int
) -> None:
    assert len(plan(7, jobs, per_kind=per_kind)) == want


def test_the_batches_follow_from_the_seed_and_some_are_cancelled_or_have_large_lines() -> None:
    batches = [workload.batch_of(7, number) for number in range(100)]
    assert batches == [workload.batch_of(7, number) for number in range(100)]
    for trait in ("cancel_after_s", "padding"):
        assert 0 < sum(bool(getattr(batch, trait)) for batch in batches) < 100
    refs = [line.ref for batch in batches for line in batch.lines]
    assert len(set(refs)) == len(refs)


def test_a_large_prompt_is_above_the_lower_body_limit_and_its_script_can_be_read() -> None:
    jobs = [workload.job_of(7, number) for number in range(200)]
    limit = int(OTHER_SETTINGS[0]["MAX_BODY_BYTES"])
    for job in jobs:
        assert (len(job.prompt) > limit) == bool(job.padding)
        assert workload.read_prompt(f"<user>{job.prompt}</user>") == job.script
        assert job.again(2).ref == f"{job.ref}r2"


def test_the_jobs_follow_from_the_seed_and_have_every_trait() -> None:
    jobs = [workload.job_of(7, number) for number in range(2000)]
    assert jobs == [workload.job_of(7, number) for number in range(2000)]
    assert len({job.ref for job in jobs}) == 2000
    fates = {job.script.fate for job in jobs}
    assert fates == {"answered", "refused", "broken", "flaky", "killer"}
    assert {job.route for job in jobs} == set(workload.ROUTES)
    for trait in (
        *("twice", "conflict", "read", "explain", "delay_ms", "cancel_after_s"),
        *("patience_s", "stubborn", "padding"),
    ):
        having = sum(bool(getattr(job, trait)) for job in jobs)
        assert 0 < having < 2000, trait
