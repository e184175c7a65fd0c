"""The steps of a user of batches, for the tests of batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai

ENDED = {"failed", "completed", "expired", "cancelled"}


def lines(model: str, count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"c{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": f"q{i}"}]} | fields,
        }
        for i in range(count)
    ]


def jsonl(items: list[Any]) -> bytes:
    return b"".join(
        (item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in items
    )


class Desk:
    """The steps of a user of batches."""

    def __init__(self, front: Any, until: Callable[..., Any]) -> None:
        self.front = front
        self.client: openai.OpenAI = front.openai()
        self._until = until

    def make(self, items: list[Any], endpoint: Any = "/v1/chat/completions", **more: Any) -> Any:
        file = self.client.files.create(file=("in.jsonl", jsonl(items)), purpose="batch")
        return self.client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
        )

    def reaches(self, batch: Any, *statuses: str) -> Any:
        def look() -> Any:
            try:
                now = self.client.batches.retrieve(batch.id)
            except openai.InternalServerError as exc:
                if exc.status_code != 503:  # Redis is down in some tests
                    raise
                return None
            return now if now.status in (statuses or ENDED) else None

        return self._until(look, f"{batch.id} gets {statuses or 'to its end'}")

    def counts(self, batch: Any) -> dict[str, int]:
        counts = self.client.batches.retrieve(batch.id).request_counts
        assert counts is not None
        return counts.model_dump()

    def read(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        text = self.client.files.content(file_id).text
        assert text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]
