"""Rows of (request, length of the answer), for training a predictor on a queue's own traffic. Pure.

Called by the worker, which keeps them where a queue is set to (`record_rows`), and by `lengthwise
collect --from-queue`, which writes them to a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def read_request(body: bytes | None) -> dict[str, Any] | None:
    """The request of a job's body; None: there is none, or it is no JSON object."""
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
    """The row of a job that succeeded; None where there is no length of one answer, or no text.

    An answer as long as its request allowed is censored: it would have gone on.
    """
    if not output_tokens or request.get("n") not in (None, 1):
        return None  # the tokens of several answers are counted together
    if isinstance(request.get("messages"), list):
        asked: dict[str, Any] = {"messages": request["messages"]}
    elif isinstance(request.get("prompt"), str):
        asked = {"prompt": request["prompt"]}
    else:
        return None
    cap = request.get("max_completion_tokens") or request.get("max_tokens")
    return {
        "id": job_id,
        "source": f"queue/{queue}",
        "model": queue,
        **asked,
        "output_tokens": output_tokens,
        "censored": isinstance(cap, int) and output_tokens >= cap,
        "prompt_tokens": prompt_tokens,
    }
