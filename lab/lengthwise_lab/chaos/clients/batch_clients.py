"""Clients of `/v1/batches`: they upload lines, start a batch, cancel some, and fetch the results.

Called by run.py. A batch has no idempotency key. A client without a reply looks for its batch among
those of its tenant, by the file that it uploaded.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

from lengthwise_lab.chaos.checks.outputs import entry_text
from lengthwise_lab.chaos.clients.retrying_client import RetryingClient, error_code
from lengthwise_lab.chaos.clients.workload import BatchJob, batch_of
from lengthwise_lab.chaos.history import History
from lengthwise_lab.chaos.system.processes import QUEUE

#: A batch is started after so many submitted jobs, and then after every so many more.
FIRST_AT, BATCH_EVERY = 60, 400

#: How long a client waits for the end of its batch, s, and the pause between two looks.
_WAIT_S, _LOOK_S = 240.0, 0.5

#: The statuses of a batch that has ended.
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class BatchClients:
    """Starts the batches of a run, one client each."""

    def __init__(self, client: RetryingClient, history: History, *, seed: int) -> None:
        """Store the arguments. Nothing is sent yet."""
        self._client, self._history, self._seed = client, history, seed

    async def run(self, jobs: int, submitted: Callable[[], int]) -> None:
        """Start batches until all jobs are submitted; return when the last batch has ended.

        Args:
            jobs: The number of jobs of the run, beside the batches.
            submitted: Returns how many are submitted.
        """
        async with asyncio.TaskGroup() as group:
            for number, at in enumerate(range(min(FIRST_AT, jobs), jobs + 1, BATCH_EVERY)):
                while submitted() < at:  # noqa: ASYNC110 - nothing signals it
                    await asyncio.sleep(0.1)
                group.create_task(self._run_batch(batch_of(self._seed, number)))

    async def _run_batch(self, batch: BatchJob) -> None:
        lines = [line.ref for line in batch.lines]
        specs = {line.ref: line.fate for line in batch.lines}
        self._history.write("batch", "invoke", ref=batch.ref, lines=lines, fates=specs)
        batch_id = await self._create(batch)
        if batch_id is None:
            return
        cancelled = batch.cancel_after_s is not None
        if batch.cancel_after_s is not None:
            await asyncio.sleep(batch.cancel_after_s)
            path = f"/v1/batches/{batch_id}/cancel"
            await self._client.call_until_answered(batch.tenant, "POST", path)
        view = await self._wait(batch, batch_id)
        if view is None or view["status"] not in _ENDED:
            status = None if view is None else view["status"]
            self._history.write("batch", "info", ref=batch.ref, id=batch_id, status=status)
            return
        results = [
            result
            for kind in ("output_file_id", "error_file_id")
            for result in await self._results(batch, view.get(kind))
        ]
        self._history.write(
            "batch",
            "ok",
            ref=batch.ref,
            id=batch_id,
            status=view["status"],
            cancelled=cancelled,
            counts=view["request_counts"],
            results=results,
        )

    async def _create(self, batch: BatchJob) -> str | None:
        """Upload the lines and start the batch. Return its id; None: it is refused or unknown."""
        file = await self._client.upload_until_answered(batch.tenant, _lines(batch))
        if file is None or not file.is_success:
            status = None if file is None else file.status_code
            self._history.write("batch", "fail", ref=batch.ref, status=status, code="upload")
            return None
        file_id = file.json()["id"]
        body = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        got = await self._client.call(batch.tenant, "POST", "/v1/batches", body)
        if got is not None and got.is_success:
            return str(got.json()["id"])
        if got is not None:
            code = error_code(got)
            # An error that names a batch says what becomes of it, and does not deny it.
            named = "batch_" in got.text
            fields = {"status": got.status_code, "code": code, "named": named}
            self._history.write("batch", "fail", ref=batch.ref, **fields)
            return None
        path = "/v1/batches?limit=100"
        listed = await self._client.call_until_answered(batch.tenant, "GET", path)
        for view in () if listed is None or not listed.is_success else listed.json()["data"]:
            if view["input_file_id"] == file_id:
                return str(view["id"])
        # Not yet, or never: the request may still be on its way.
        self._history.write("batch", "unknown", ref=batch.ref)
        return None

    async def _wait(self, batch: BatchJob, batch_id: str) -> dict[str, Any] | None:
        """Return the batch when it has ended, or as it is after `_WAIT_S`."""
        ends = asyncio.get_running_loop().time() + _WAIT_S
        view: dict[str, Any] | None = None
        while asyncio.get_running_loop().time() < ends:
            path = f"/v1/batches/{batch_id}"
            got = await self._client.call_until_answered(batch.tenant, "GET", path)
            if got is not None and got.is_success:
                view = got.json()
                if view is not None and view["status"] in _ENDED:
                    break
            await asyncio.sleep(_LOOK_S)
        return view

    async def _results(self, batch: BatchJob, file_id: str | None) -> list[list[Any]]:
        """Return the lines of a file: custom id, status, text or code, and the job's id."""
        if file_id is None:
            return []
        path = f"/v1/files/{file_id}/content"
        got = await self._client.call_until_answered(batch.tenant, "GET", path)
        if got is None or not got.is_success:
            return [["", None if got is None else got.status_code, "the file cannot be read", ""]]
        return [_result(line) for line in got.text.splitlines()]


def _lines(batch: BatchJob) -> bytes:
    rng = random.Random(batch.ref)  # noqa: S311 - must repeat
    lines = []
    for script in batch.lines:
        prompt = script.as_prompt() + " " + "x" * (batch.padding if rng.random() < 0.3 else 0)
        body = {"model": QUEUE, "messages": [{"role": "user", "content": prompt}]}
        line = {
            "custom_id": script.ref,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body,
        }
        lines.append(json.dumps(line))
    return ("\n".join(lines) + "\n").encode()


def _result(line: str) -> list[Any]:
    result = json.loads(line)
    response, error = result.get("response"), result.get("error")
    if response is None:
        return [result["custom_id"], None, (error or {}).get("code"), ""]
    body = response["body"]
    said: str | None
    if response["status_code"] == 200:
        said = entry_text("chunk", json.dumps(body))
    else:
        said = (body.get("error") or {}).get("code")
    return [result["custom_id"], response["status_code"], said, response.get("request_id", "")]
