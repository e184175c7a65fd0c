"""The clients of a chaos run: they submit jobs, cancel some, read some, and record every reply.

A client relies only on replies. Without a reply the result is unknown (`info`), unless the client
has an idempotency key and can repeat the request. Called by run.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import httpx

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.chaos.checks.outputs import entry_text
from lengthwise_lab.chaos.clients.openai_clients import OpenAIRequest
from lengthwise_lab.chaos.clients.output_reader import read_output
from lengthwise_lab.chaos.clients.retrying_client import RETRY_FOR_S, RetryingClient, job_named_by
from lengthwise_lab.chaos.clients.workload import TENANTS, ChaosJob, job_of
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.processes import ADMIN, QUEUE
from lengthwise_lab.errors import ChaosError

#: How many clients submit jobs at once.
_SUBMITTERS = 12

#: How often a client without a key sends a request at most.
_TRIES_WITHOUT_KEY = 4


class JobClients:
    """All clients of a run, on one set of connections."""

    def __init__(self, client: RetryingClient, history: History, *, seed: int) -> None:
        """Store the arguments. Nothing is sent yet."""
        self.submitted = 0  #: Jobs submitted so far, whatever the reply.
        self.fault: BaseException | None = None  #: The first error of a client.
        self.ids: set[str] = set()  #: Ids of the acknowledged jobs.
        self._client, self._history, self._seed = client, history, seed
        self._tasks: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Cancel the requests in progress."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------ submits

    async def submit_all(self, jobs: int, may_submit: Callable[[int], Awaitable[bool]]) -> None:
        """Submit all jobs, each when `may_submit(number)` returns; wait for the last reader.

        If it returns False, no more jobs are submitted.
        """
        numbers = iter(range(jobs))

        async def submitter() -> None:
            for number in numbers:
                if not await may_submit(number):
                    return
                await self._run_job(job_of(self._seed, number))
                self.submitted += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(_SUBMITTERS):
                group.create_task(submitter())
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self.fault is not None:
            raise self.fault

    async def _run_job(self, job: ChaosJob) -> None:
        if job.route != "jobs":
            self._start(self._ask(job))
            return
        if job.twice:
            a, b = await asyncio.gather(self._submit(job), self._submit(job))
            job_id = a or b
        else:
            job_id = await self._submit(job)
            for number in range(1, _TRIES_WITHOUT_KEY if job.stubborn and job_id is None else 1):
                # For the service it is another request, which makes another job.
                await self._client.pause()
                job_id = await self._submit(job.again(number))
                if job_id is not None:
                    job = job.again(number)
                    break
        if job_id is None:
            return
        if job.conflict:
            await self._conflict(job)
        if job.cancel_after_s is not None:
            self._start(self._cancel(job, job_id, job.cancel_after_s))
        if job.read:
            self._start(read_output(self._client, self._history, job, job_id))
        if job.explain:
            self._start(self._explain(job, job_id))
        if job.peek:
            self._start(self._peek(job, job_id))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Keep the first error of a client: it is one of the harness, and ends the run."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.fault = self.fault or task.exception()

    async def _submit(self, job: ChaosJob) -> str | None:
        """Submit a job. Return its id; None: no reply acknowledged it."""
        write, ref = self._history.write, job.ref
        write("submit", "invoke", ref=ref, key=job.key, spec=spec_of(job))
        headers = {} if job.key is None else {"Idempotency-Key": job.key}
        ends = asyncio.get_running_loop().time() + RETRY_FOR_S
        tries = 0
        while asyncio.get_running_loop().time() < ends:
            tries += 1
            got = await self._client.call(job.tenant, "POST", "/v1/jobs", _request(job), headers)
            if got is not None and got.is_success:
                view = got.json()
                fields = {
                    n: view[n] for n in ("accepted_ms", "due_ms", "predicted_tokens", "state")
                }
                self.ids.add(view["id"])
                write("submit", "ok", ref=ref, key=job.key, id=view["id"], tries=tries, **fields)
                return str(view["id"])
            if got is not None and got.status_code == httpx.codes.TOO_MANY_REQUESTS:
                await asyncio.sleep(min(2.0, float(got.headers.get("Retry-After", "1"))))
                continue
            if got is not None:
                self._client.record_refusal(job, got)
                unnamed = job_named_by(got) is None
                if got.status_code < 500 or (job.key is None and unnamed):
                    write("submit", "fail", ref=ref, key=job.key, status=got.status_code)
                    return None
            if job.key is None:
                break
            await self._client.pause()
        write("submit", "info", ref=ref, key=job.key, tries=tries)
        return None

    async def _conflict(self, job: ChaosJob) -> None:
        """Send a different request under the same key, which must be refused."""
        other = _request(job) | {"max_attempts": 1}
        headers = {"Idempotency-Key": job.key or ""}
        got = await self._client.call_until_answered(job.tenant, "POST", "/v1/jobs", other, headers)
        status = None if got is None else got.status_code
        self._history.write("conflict", "ok" if status else "info", ref=job.ref, status=status)

    async def _cancel(self, job: ChaosJob, job_id: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._history.write("cancel", "invoke", ref=job.ref, id=job_id)
        got = await self._client.call_until_answered(job.tenant, "DELETE", f"/v1/jobs/{job_id}")
        if got is None or not got.is_success:
            status = None if got is None else got.status_code
            self._history.write("cancel", "info", ref=job.ref, id=job_id, status=status)
            return
        view = got.json()
        fields = {"state": view["state"], "requested": view["cancel_requested"]}
        self._history.write("cancel", "ok", ref=job.ref, id=job_id, **fields)

    async def _peek(self, job: ChaosJob, job_id: str) -> None:
        """Request the job as another tenant, who must get 404."""
        other = next(name for name in TENANTS if name != job.tenant)
        got = await self._client.call_until_answered(other, "GET", f"/v1/jobs/{job_id}")
        status = None if got is None else got.status_code
        self._history.write("peek", "ok" if status else "info", id=job_id, by=other, status=status)

    async def _explain(self, job: ChaosJob, job_id: str) -> None:
        got = await self._client.call_until_answered(
            job.tenant, "GET", f"/v1/jobs/{job_id}/explain"
        )
        if got is not None and got.is_success:
            names = ("predicted_ms", "overtake_factor", "overtake_bound_ms", "class_offset_ms",
                     "accepted_ms", "due_ms")  # fmt: skip
            why = got.json()
            self._history.write("price", "ok", id=job_id, **{n: why[n] for n in names})

    async def _ask(self, job: ChaosJob) -> None:
        request = OpenAIRequest(self._client, self._history, job)
        await request.run(spec_of(job))
        if request.job_id is not None:
            self.ids.add(request.job_id)

    # ------------------------------------------------------------------ the end

    async def queue(self) -> dict[str, Any] | None:
        """Return the queue; None: no reply."""
        got = await self._client.call(ADMIN, "GET", f"/v1/queues/{QUEUE}")
        return None if got is None or not got.is_success else dict(got.json())

    async def make_queue(self, settings: QueueSettings) -> None:
        """Create the queue, as its admin.

        Raises:
            ChaosError: The service refused it.
        """
        body = settings.model_dump(mode="json")
        got = await self._client.call_until_answered(ADMIN, "PUT", f"/v1/queues/{QUEUE}", body)
        if got is None or not got.is_success:
            raise ChaosError(f"the queue was not created: {got and got.text}")

    async def view_some(self, ids: Sequence[str]) -> None:
        """Record what the service returns for these jobs at the end."""
        for job_id in ids:
            got = await self._client.call_until_answered(ADMIN, "GET", f"/v1/jobs/{job_id}")
            if got is None or not got.is_success:
                status = None if got is None else got.status_code
                self._history.write("view", "fail", id=job_id, status=status)
                continue
            view, text = got.json(), None
            if view["response"] is not None and view["state"] == "succeeded":
                text = entry_text("chunk", json.dumps(view["response"]))
            self._history.write("view", "ok", id=job_id, state=view["state"], text=text)


def spec_of(job: ChaosJob) -> dict[str, Any]:
    """Return what the checks need of a job."""
    return {
        "tenant": job.tenant,
        "fate": job.script.fate,
        "route": job.route,
        "class": job.job_class,
        "pieces": job.script.pieces,
        "delay_ms": job.delay_ms,
        "ttl_ms": job.ttl_ms,
        "max_attempts": job.max_attempts,
    }


def _request(job: ChaosJob) -> dict[str, Any]:
    return {
        "body": {
            "model": QUEUE,
            "messages": [{"role": "user", "content": job.prompt}],
        },
        "class": job.job_class,
        "max_attempts": job.max_attempts,
        "delay_ms": job.delay_ms,
        "ttl_ms": job.ttl_ms,
    }
