"""The clients of a chaos run: they hand jobs in, withdraw some, read some, and say what they saw.

A client believes nothing but a reply. Without one it knows nothing (`info`), unless it gave an
idempotency key and may ask again. Called by run.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import httpx

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.chaos.clients.workload import TENANTS, Ask, ask
from lengthwise_lab.chaos.clients.service_client import INSIST_S, Caller
from lengthwise_lab.chaos.clients.chat_client import talk
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.checks.outputs import Entry, said
from lengthwise_lab.chaos.system.processes import ADMIN, QUEUE
from lengthwise_lab.errors import ChaosError

#: How many hand jobs in at once.
_SUBMITTERS = 12


class Clients:
    """All of them, on one set of connections."""

    def __init__(self, caller: Caller, history: History, *, seed: int) -> None:
        """Nothing is sent yet."""
        self.submitted = 0  #: Jobs handed in so far, whatever became of it.
        self.ids: set[str] = set()  #: Of the acknowledged jobs.
        self._caller, self._history, self._seed = caller, history, seed
        self._later: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in list(self._later):
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)

    # ------------------------------------------------------------------ handing in

    async def submit_all(self, jobs: int, may_submit: Callable[[int], Awaitable[bool]]) -> None:
        """Hand in all jobs, each when `may_submit(number)` says so; wait for the last reader.

        When it says no, no more is handed in.
        """
        numbers = iter(range(jobs))

        async def submitter() -> None:
            for number in numbers:
                if not await may_submit(number):
                    return
                await self._one(ask(self._seed, number))
                self.submitted += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(_SUBMITTERS):
                group.create_task(submitter())
        while self._later:
            await asyncio.wait(self._later)

    async def _one(self, job: Ask) -> None:
        if job.chat:
            self._start(self._chat(job))
            return
        if job.twice:
            a, b = await asyncio.gather(self._submit(job), self._submit(job))
            job_id = a or b
        else:
            job_id = await self._submit(job)
        if job_id is None:
            return
        if job.conflict:
            await self._conflict(job)
        if job.cancel_after_s is not None:
            self._start(self._cancel(job, job_id, job.cancel_after_s))
        if job.read:
            self._start(self._read(job, job_id))
        if job.explain:
            self._start(self._explain(job, job_id))
        if job.peek:
            self._start(self._peek(job, job_id))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _submit(self, job: Ask) -> str | None:
        """The id that was acknowledged; None: none was."""
        write, ref = self._history.write, job.ref
        write("submit", "invoke", ref=ref, key=job.key, spec=spec_of(job))
        headers = {} if job.key is None else {"Idempotency-Key": job.key}
        ends = asyncio.get_running_loop().time() + INSIST_S
        tries = 0
        while asyncio.get_running_loop().time() < ends:
            tries += 1
            got = await self._caller.call(job.tenant, "POST", "/v1/jobs", _request(job), headers)
            if got is not None and got.is_success:
                view = got.json()
                known = {n: view[n] for n in ("accepted_ms", "due_ms", "predicted_tokens", "state")}
                self.ids.add(view["id"])
                write("submit", "ok", ref=ref, key=job.key, id=view["id"], tries=tries, **known)
                return str(view["id"])
            if got is not None and got.status_code == httpx.codes.TOO_MANY_REQUESTS:
                await asyncio.sleep(min(2.0, float(got.headers.get("Retry-After", "1"))))
                continue
            if got is not None and got.status_code < 500:
                write("submit", "fail", ref=ref, key=job.key, status=got.status_code)
                return None
            if job.key is None:
                break
            await self._caller.pause()
        write("submit", "info", ref=ref, key=job.key, tries=tries)
        return None

    async def _conflict(self, job: Ask) -> None:
        """Another request under the key of this one is to be refused."""
        other = _request(job) | {"max_attempts": 1}
        headers = {"Idempotency-Key": job.key or ""}
        got = await self._caller.insist(job.tenant, "POST", "/v1/jobs", other, headers)
        status = None if got is None else got.status_code
        self._history.write("conflict", "ok" if status else "info", ref=job.ref, status=status)

    async def _cancel(self, job: Ask, job_id: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._history.write("cancel", "invoke", ref=job.ref, id=job_id)
        got = await self._caller.insist(job.tenant, "DELETE", f"/v1/jobs/{job_id}")
        if got is None or not got.is_success:
            status = None if got is None else got.status_code
            self._history.write("cancel", "info", ref=job.ref, id=job_id, status=status)
            return
        view = got.json()
        told = {"state": view["state"], "requested": view["cancel_requested"]}
        self._history.write("cancel", "ok", ref=job.ref, id=job_id, **told)

    async def _peek(self, job: Ask, job_id: str) -> None:
        """Somebody else asks for it, and is to be told that it does not exist."""
        other = next(name for name in TENANTS if name != job.tenant)
        got = await self._caller.insist(other, "GET", f"/v1/jobs/{job_id}")
        status = None if got is None else got.status_code
        self._history.write("peek", "ok" if status else "info", id=job_id, by=other, status=status)

    async def _explain(self, job: Ask, job_id: str) -> None:
        got = await self._caller.insist(job.tenant, "GET", f"/v1/jobs/{job_id}/explain")
        if got is not None and got.is_success:
            names = ("predicted_ms", "overtake_factor", "overtake_bound_ms", "class_offset_ms",
                     "accepted_ms", "due_ms")  # fmt: skip
            why = got.json()
            self._history.write("price", "ok", id=job_id, **{n: why[n] for n in names})

    async def _chat(self, job: Ask) -> None:
        job_id = await talk(self._caller, self._history, job, spec_of(job))
        if job_id is not None:
            self.ids.add(job_id)

    # ------------------------------------------------------------------ reading

    async def _read(self, job: Ask, job_id: str) -> None:
        """Read a job's output to its end, at one service after the other."""
        dice = random.Random(f"read {job.ref}")  # noqa: S311 - must repeat
        entries: list[Entry] = []
        ended, visits = False, 0
        ends = asyncio.get_running_loop().time() + INSIST_S
        while not ended and asyncio.get_running_loop().time() < ends:
            visits += 1
            leave_after = dice.randrange(1, 12) if dice.random() < 0.5 else None
            ended = await self._visit(job, job_id, entries, leave_after)
            if not ended and leave_after is None:
                await asyncio.sleep(0.1)
        self._history.write(
            "read",
            "ok" if ended else "info",
            ref=job.ref,
            id=job_id,
            visits=visits,
            entries=entries,
        )

    async def _visit(
        self, job: Ask, job_id: str, entries: list[Entry], leave_after: int | None
    ) -> bool:
        """Read on from the last entry; whether it was the end."""
        headers = {"Last-Event-ID": entries[-1][0]} if entries else {}
        path = f"/v1/jobs/{job_id}/stream"
        before = len(entries)
        try:
            async with self._caller.stream(job.tenant, "GET", path, headers=headers) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return True
                if not response.is_success:
                    await response.aread()
                    self._caller.note(response)
                    await asyncio.sleep(0.2)
                    return False
                frame: dict[str, str] = {}
                async for line in response.aiter_lines():
                    if line:
                        name, _, value = line.partition(":")
                        frame[name] = value.strip()
                        continue
                    if "id" in frame:
                        entries.append(_entry(frame))
                        if frame.get("event") == "end":
                            return True
                        if leave_after is not None and len(entries) - before >= leave_after:
                            return False
                    frame = {}
        except httpx.TransportError:
            pass
        return False

    # ------------------------------------------------------------------ the end

    async def queue(self) -> dict[str, Any] | None:
        """How the line stands; None: nobody says."""
        got = await self._caller.call(ADMIN, "GET", f"/v1/queues/{QUEUE}")
        return None if got is None or not got.is_success else dict(got.json())

    async def make_queue(self, settings: QueueSettings) -> None:
        """As its admin.

        Raises:
            ChaosError: It was refused.
        """
        body = settings.model_dump(mode="json")
        got = await self._caller.insist(ADMIN, "PUT", f"/v1/queues/{QUEUE}", body)
        if got is None or not got.is_success:
            raise ChaosError(f"the queue was not made: {got and got.text}")

    async def view_some(self, ids: Sequence[str]) -> None:
        """Write down what the service says of these jobs at the end."""
        for job_id in ids:
            got = await self._caller.insist(ADMIN, "GET", f"/v1/jobs/{job_id}")
            if got is None or not got.is_success:
                status = None if got is None else got.status_code
                self._history.write("view", "fail", id=job_id, status=status)
                continue
            view, text = got.json(), None
            if view["response"] is not None and view["state"] == "succeeded":
                text = view["response"]["choices"][0]["message"]["content"]
            self._history.write("view", "ok", id=job_id, state=view["state"], text=text)


def spec_of(job: Ask) -> dict[str, Any]:
    """What the checker needs to know of a job."""
    return {
        "tenant": job.tenant,
        "fate": job.script.fate,
        "class": job.job_class,
        "pieces": job.script.pieces,
        "delay_ms": job.delay_ms,
        "ttl_ms": job.ttl_ms,
        "max_attempts": job.max_attempts,
    }


def _request(job: Ask) -> dict[str, Any]:
    return {
        "body": {
            "model": QUEUE,
            "messages": [{"role": "user", "content": job.script.as_prompt()}],
        },
        "class": job.job_class,
        "max_attempts": job.max_attempts,
        "delay_ms": job.delay_ms,
        "ttl_ms": job.ttl_ms,
    }


def _entry(frame: dict[str, str]) -> Entry:
    kind = frame.get("event", "chunk")
    return frame["id"], kind, said(kind, frame["data"])
