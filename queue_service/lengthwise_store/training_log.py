"""The training log: (request, length) of finished jobs, if a queue is set to keep them.

See `QueueSettings.record_rows`. The rows are a stream beside the queue, bounded in number and in
age. It is no part of a job's life: the worker appends to it after a job has ended, and a crash may
lose what is not written yet. Read by `lengthwise collect --from-queue`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from lengthwise_contract.request_facts import request_facts
from lengthwise_store.base import StoreBase
from lengthwise_store.codec.queues import read_clock_ms
from lengthwise_store.keys import QueueKeys
from lengthwise_store.redis.errors import read


class TrainingLog(StoreBase):
    """The methods of `JobStore` for the training log."""

    async def append_training_rows(
        self, queue: str, rows: Sequence[bytes], *, most: int, ttl_ms: int
    ) -> None:
        """Append rows, and delete those beyond `most` and those older than `ttl_ms`."""
        key = QueueKeys(queue).record
        client = self._connections.of(key)
        now_ms = read_clock_ms(await read(client.time()))
        pipe = client.pipeline(transaction=False)
        for row in rows:
            pipe.xadd(key, {"row": row})
        # Exactly, not about: these are prompts, and "about" keeps up to a hundred more. It runs
        # once a second.
        pipe.xtrim(key, maxlen=most, approximate=False)
        pipe.xtrim(key, minid=str(max(0, int(now_ms) - ttl_ms)), approximate=False)
        pipe.pexpire(key, ttl_ms)
        await read(pipe.execute())

    async def training_rows(
        self, queue: str, *, after: str = "0-0", limit: int = 500
    ) -> list[tuple[str, bytes]]:
        """Return the rows behind a cursor, the oldest first, each with its cursor."""
        key = QueueKeys(queue).record
        found = await read(self._connections.of(key).xrange(key, min=f"({after}", count=limit))
        return [
            (one.decode(), fields[b"row"])
            for one, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", cast("Any", found))
        ]

    async def delete_training_rows(self, queue: str) -> None:
        """Delete the training log of a queue."""
        key = QueueKeys(queue).record
        await read(self._connections.of(key).unlink(key))


def read_request(body: bytes | None) -> dict[str, Any] | None:
    """Read the request from a job's body; None: there is none, or it is no JSON object."""
    if body is None:
        return None
    try:
        request = json.loads(body)
    except ValueError:
        return None
    return request if isinstance(request, dict) else None


def length_row(
    job_id: str,
    queue: str,
    request: Mapping[str, Any],
    *,
    output_tokens: int | None,
    prompt_tokens: int | None,
) -> dict[str, Any] | None:
    """Make the row of a job that succeeded; None: it has no length of one answer, or no text.

    An answer that is as long as its request allowed is marked `censored`: its real length is
    unknown. `facts` are those of the request beside its text, as the predictor gets them.
    """
    if not output_tokens or request.get("n") not in (None, 1):
        return None  # the tokens of several answers are counted together
    if isinstance(request.get("messages"), list):
        prompt_fields: dict[str, Any] = {"messages": request["messages"]}
    elif isinstance(request.get("prompt"), str):
        prompt_fields = {"prompt": request["prompt"]}
    else:
        return None
    facts = request_facts(request)
    cap = facts.get("max_tokens")
    return {
        "id": job_id,
        "source": f"queue/{queue}",
        "model": queue,
        **prompt_fields,
        "output_tokens": output_tokens,
        "censored": cap is not None and output_tokens >= cap,
        "prompt_tokens": prompt_tokens,
        "facts": facts,
    }
