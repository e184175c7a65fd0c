"""The workload of a load test: prompts, their order, their arrival times.

Called by compare.py and by the command line. All random numbers follow from a seed, so that two
policies get the same requests in the same order at the same times.
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
from lengthwise_lab.loadtest.arrivals import ArrivalProcess

#: Sampling parameters of every request, so that two runs do the same work.
FIXED_SAMPLING: Mapping[str, Any] = {"temperature": 0, "seed": 1}


#: Request bodies to draw from: (kind, OpenAI chat body) of each.
Bodies = Sequence[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class TimedRequest:
    """One request of a workload.

    `body` is an OpenAI chat body without `model` and `stream`; `due_to_send_s` counts from the
    start of the run, seconds; `kind` is the length that its author expected, for people only.
    """

    index: int
    body: Mapping[str, Any]
    due_to_send_s: float = 0.0
    kind: str = ""


def bundled_bodies(*, max_tokens: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the prompts that are part of the package: half short questions, half long tasks.

    Every body has the same `max_tokens`, so that the cap does not reveal the length.
    """
    text = files("lengthwise_lab.loadtest").joinpath("prompts.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [(row["kind"], chat_body(row["prompt"], max_tokens=max_tokens)) for row in rows]


def read_bodies(path: Path, *, max_tokens: int | None) -> list[tuple[str, dict[str, Any]]]:
    """Read the bodies of a JSONL file: a line has `prompt` (text) or `messages`, and `max_tokens`.

    Other fields are ignored, so that a file of recorded lengths can be used. A line without
    `max_tokens` gets the argument; None: no cap.

    Raises:
        BadWorkload: The file cannot be read, has an invalid line, or has no line.
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
        raise BadWorkload(f"{path} has no request")
    return bodies


def chat_body(prompt: str, *, max_tokens: int | None) -> dict[str, Any]:
    """Make an OpenAI chat body of one user message. `max_tokens` None: no cap."""
    cap = {} if max_tokens is None else {"max_tokens": max_tokens}
    return {"messages": [{"role": "user", "content": prompt}], **cap, **FIXED_SAMPLING}


def mix(
    bodies: Bodies,
    *,
    count: int,
    seed: int,
    arrivals: ArrivalProcess | None = None,
) -> list[TimedRequest]:
    """Draw `count` requests. Their order and their times follow from the seed.

    Bodies are drawn without replacement until all are used, then again.

    Args:
        bodies: (kind, body) of each.
        count: Number of requests, >= 1.
        seed: Seed of the order and of the arrivals.
        arrivals: The arrival process; None: all at once.

    Raises:
        ValueError: `count` < 1, or no bodies.
    """
    if count < 1 or not bodies:
        raise ValueError(f"need count >= 1 and bodies, got {count} and {len(bodies)}")
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    order: list[tuple[str, dict[str, Any]]] = []
    while len(order) < count:
        order += rng.sample(list(bodies), len(bodies))
    # A seed of its own: the order must not depend on the arrival process.
    times = (arrivals or ArrivalProcess()).times(count, seed=rng.getrandbits(32))
    return [
        TimedRequest(index=index, kind=kind, body=body, due_to_send_s=at_s)
        for index, ((kind, body), at_s) in enumerate(zip(order, times, strict=False))
    ]
