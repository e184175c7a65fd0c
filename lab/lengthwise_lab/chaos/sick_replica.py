"""Two replicas, one of them sick: how much later do the answers come than from the other alone?

Unlike in a chaos run, nothing else is broken, and all times are the product's own. The same jobs
are sent to one replica, and then, for each kind of sickness, to two, one of which is sick. Called
by `lengthwise bench chaos --sick-replica`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lengthwise_contract.defaults import BEAT_MS, LEASE_MS, TICK_MS
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.chaos.clients.retrying_client import RetryingClient
from lengthwise_lab.chaos.clients.workload import AnswerScript
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.model_server import ModelServer
from lengthwise_lab.chaos.system.processes import ADMIN, QUEUE, Sizes, System, free_ports
from lengthwise_lab.chaos.system.sickness import Sick, Sickness
from lengthwise_lab.errors import ChaosError
from lengthwise_store.jobs import Job
from lengthwise_store.store import JobStore
from lengthwise_worker.settings import Settings as WorkerSettings

#: Jobs, and the time of an engine for each, ms: ten times the slots of a replica.
JOBS, SERVICE_MS = 80, 2000.0

#: The kinds of sickness that are tried. `LUMPS` is none: its answers are right.
KINDS = tuple(kind for kind in Sickness if kind is not Sickness.LUMPS)

#: The mean completion may be this many times that of the healthy replica alone.
MOST_RATIO = 1.4

#: Jobs that every replica answers before a measurement, and their time, ms.
_WARM_UP_JOBS, _WARM_UP_MS = 64, 100.0

#: How long all jobs may take, and a replica until it gets work again, s.
_TIMEOUT_S = 300.0

_TENANT = "many"


@dataclass(frozen=True, kw_only=True)
class SickReplicaRow:
    """The result of one kind of sickness. Kind None: the healthy replica alone."""

    kind: Sickness | None
    dead_letters: int
    mean_s: float  #: From the first acceptance to the end of a job.
    longest_s: float
    ratio: float  #: Of `mean_s` to that of the healthy replica alone.
    sick_calls: int

    @property
    def ok(self) -> bool:
        """Whether the sick replica did no harm."""
        return not self.dead_letters and self.ratio <= MOST_RATIO

    def as_json(self) -> dict[str, Any]:
        """Return the row for `--json`."""
        row = asdict(self) | {"kind": self.kind or "healthy replica alone", "ok": self.ok}
        return {n: round(v, 2) if isinstance(v, float) else v for n, v in row.items()}


async def compare(
    folder: Path,
    report_progress: Callable[[str], None],
    *,
    kinds: tuple[Sickness, ...] = KINDS,
    jobs: int = JOBS,
) -> list[SickReplicaRow]:
    """Measure the healthy replica alone, and then each kind of sickness beside it.

    Args:
        folder: For the logs; it must exist.
        report_progress: Gets a line of text for each row.
        kinds: The kinds.
        jobs: How many jobs are sent for each row.

    Raises:
        ChaosError: The jobs did not end in time.
    """
    rows: list[SickReplicaRow] = []
    with History(folder / "history.jsonl") as history:
        async with _Rig(folder, history) as rig:
            rows.append(await rig.measure(None, None, jobs))
            report_progress(json.dumps(rows[-1].as_json()))
            await rig.add_replica()
            for kind in kinds:
                rows.append(await rig.measure(kind, rows[0].mean_s, jobs))
                report_progress(json.dumps(rows[-1].as_json()))
    return rows


class _Rig:
    """One service, and replicas, the last of which falls sick."""

    def __init__(self, folder: Path, history: History) -> None:
        sizes = Sizes(
            services=1,
            workers=1,
            lease_ms=LEASE_MS,
            beat_ms=BEAT_MS,
            tick_ms=TICK_MS,
            engine_timeout_s=float(WorkerSettings.model_fields["engine_timeout_s"].default),
        )
        self._engine = ModelServer(QUEUE, history, lambda _: None)
        self._system = System(folder, sizes, free_ports(1))
        self._client = RetryingClient(self._system, history, seed=1)
        self._rounds = 0

    async def __aenter__(self) -> _Rig:
        await self._engine.start()
        await self._system.__aenter__()
        await self._system.start_services(self._engine.predictor_url)
        body = QueueSettings(min_rank_accuracy=None).model_dump(mode="json")
        await self._client.call_until_answered(ADMIN, "PUT", f"/v1/queues/{QUEUE}", body)
        await self._system.start_workers(self._engine.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._system.__aexit__()
        await self._engine.aclose()

    async def add_replica(self) -> None:
        """Start another replica."""
        await self._system.start_worker()

    async def measure(
        self, kind: Sickness | None, alone_s: float | None, count: int
    ) -> SickReplicaRow:
        """Send the jobs while a replica is sick, and wait until all have ended."""
        await self._all_get_work()
        # A replica that was sick gets few jobs until it has answered some.
        await self._ended(await self._submit_all(_WARM_UP_JOBS, _WARM_UP_MS))
        victim, sick = self._system.workers[-1].name, Sick(kind or Sickness.LUMPS, releases=False)
        if kind is not None:
            self._engine.sicken(victim, sick)
        try:
            jobs = await self._ended(await self._submit_all(count, SERVICE_MS))
        finally:
            self._engine.cure(victim)
        first_ms = min(job.accepted_ms for job in jobs)
        took_s = [((job.finished_ms or 0.0) - first_ms) / 1000 for job in jobs]
        mean_s = sum(took_s) / len(took_s)
        return SickReplicaRow(
            kind=kind,
            dead_letters=sum(job.state == "failed" for job in jobs),
            mean_s=mean_s,
            longest_s=max(took_s),
            ratio=mean_s / (mean_s if alone_s is None else alone_s),
            sick_calls=sick.calls,
        )

    async def _submit_all(self, count: int, service_ms: float) -> list[str]:
        self._rounds += 1
        return await asyncio.gather(*(self._submit(number, service_ms) for number in range(count)))

    async def _submit(self, number: int, service_ms: float) -> str:
        script = AnswerScript(
            ref=f"r{self._rounds}-{number}",
            fate="answered",
            pieces=20,
            service_ms=service_ms,
            tokens=200,
            predicted_tokens=200.0,
        )
        message = {"role": "user", "content": script.as_prompt()}
        body = {"body": {"model": QUEUE, "messages": [message]}}
        got = await self._client.call_until_answered(_TENANT, "POST", "/v1/jobs", body)
        if got is None or not got.is_success:
            raise ChaosError(f"a job was not accepted: {got and got.text}")
        return str(got.json()["id"])

    async def _ended(self, ids: Sequence[str]) -> list[Job]:
        store = JobStore(f"redis://127.0.0.1:{self._system.broker.primary.port}/0")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while True:
                    found = [await store.get(QUEUE, job_id) for job_id in ids]
                    jobs = [job for job in found if job is not None and job.finished_ms is not None]
                    if len(jobs) == len(ids):
                        return jobs
                    await asyncio.sleep(0.5)
        except TimeoutError as exc:
            raise ChaosError(f"after {_TIMEOUT_S:g} s jobs have not ended") from exc
        finally:
            await store.aclose()

    async def _all_get_work(self) -> None:
        """Wait until every replica gets work."""
        want = len(self._system.workers) * self._system.sizes.slots
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while True:
                    path = f"/v1/queues/{QUEUE}"
                    got = await self._client.call_until_answered(ADMIN, "GET", path)
                    workers = [] if got is None or not got.is_success else got.json()["workers"]
                    if sum(worker["slots"] for worker in workers) == want:
                        return
                    await asyncio.sleep(0.5)
        except TimeoutError as exc:
            raise ChaosError(f"after {_TIMEOUT_S:g} s a replica gets no work") from exc
