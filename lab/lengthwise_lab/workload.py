"""What a load test sends, and when: prompts, their order, their arrival times.

Called by compare.py and by the command line. Everything random comes from a seed, so two policies
get the same requests in the same order at the same moments.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from lengthwise_lab.errors import BadWorkload

#: Of every request body unless the data says otherwise: two runs shall do the same work.
FIXED_SAMPLING: Mapping[str, Any] = {"temperature": 0, "seed": 1}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request of a workload.

    `body` is an OpenAI chat body without `model` and `stream`; `due_to_send_s` counts from the
    start of the run, seconds; `kind` is what its author expected, for reading only.
    """

    index: int
    body: Mapping[str, Any]
    due_to_send_s: float = 0.0
    kind: str = ""


def bundled_bodies(*, max_tokens: int) -> list[tuple[str, dict[str, Any]]]:
    """The prompts that ship with the lab, (kind, body), half short questions, half long tasks.

    Every body has the same `max_tokens`, so that the cap does not give the length away.
    """
    text = files("lengthwise_lab").joinpath("prompts.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [(row["kind"], chat_body(row["prompt"], max_tokens=max_tokens)) for row in rows]


def read_bodies(path: Path, *, max_tokens: int | None) -> list[tuple[str, dict[str, Any]]]:
    """The bodies of a JSONL file: a line has `prompt` (text) or `messages`, maybe `max_tokens`.

    Any other field of a line is ignored, so a file of recorded lengths serves as it is. A line
    without `max_tokens` gets the argument; None: no cap.

    Raises:
        BadWorkload: The file cannot be read, a line is not such an object, or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise BadWorkload(f"cannot read {path}: {exc}") from exc
    bodies = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as exc:
            raise BadWorkload(f"{path}, line {number}: not JSON: {exc}") from exc
        if not isinstance(row, dict) or not (row.get("prompt") or row.get("messages")):
            raise BadWorkload(f"{path}, line {number}: needs `prompt` or `messages`")
        cap = row.get("max_tokens", max_tokens)
        body = chat_body(row.get("prompt") or "", max_tokens=cap)
        if row.get("messages"):
            body["messages"] = row["messages"]
        bodies.append((str(row.get("kind", "")), body))
    if not bodies:
        raise BadWorkload(f"{path} holds no request")
    return bodies


def chat_body(prompt: str, *, max_tokens: int | None) -> dict[str, Any]:
    """An OpenAI chat body for one user message, with sampling fixed; None: no cap."""
    cap = {} if max_tokens is None else {"max_tokens": max_tokens}
    return {"messages": [{"role": "user", "content": prompt}], **cap, **FIXED_SAMPLING}


def mix(
    bodies: Sequence[tuple[str, dict[str, Any]]],
    *,
    count: int,
    seed: int,
    rate_per_s: float | None = None,
) -> list[Request]:
    """`count` requests in an order, and at times, that depend on the seed alone.

    Bodies are drawn without replacement until all are used up, then all over again.

    Args:
        bodies: (kind, body) of each.
        count: How many requests, >= 1.
        seed: Of the order and of the arrivals.
        rate_per_s: Mean arrivals per second, Poisson; None: all at once.

    Raises:
        ValueError: `count` < 1, no bodies, or a rate that is not > 0.
    """
    if count < 1 or not bodies or (rate_per_s is not None and rate_per_s <= 0):
        raise ValueError(
            f"need count >= 1, bodies and a rate > 0, got {count}, {len(bodies)}, {rate_per_s}"
        )
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    order: list[tuple[str, dict[str, Any]]] = []
    while len(order) < count:
        order += chance.sample(list(bodies), len(bodies))
    requests, at_s = [], 0.0
    for index, (kind, body) in enumerate(order[:count]):
        requests.append(Request(index=index, kind=kind, body=body, due_to_send_s=at_s))
        if rate_per_s is not None:
            at_s += chance.expovariate(rate_per_s)
    return requests
