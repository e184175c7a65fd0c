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
from lengthwise_lab.loadtest.arrivals import Arrivals

#: Of every request body unless the data says otherwise: two runs shall do the same work.
FIXED_SAMPLING: Mapping[str, Any] = {"temperature": 0, "seed": 1}


#: What can be asked: (kind, OpenAI chat body) of each.
Bodies = Sequence[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class TimedRequest:
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
    text = files("lengthwise_lab.loadtest").joinpath("prompts.jsonl").read_text(encoding="utf-8")
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
    bodies: Bodies,
    *,
    count: int,
    seed: int,
    arrivals: Arrivals | None = None,
) -> list[TimedRequest]:
    """`count` requests in an order, and at times, that depend on the seed alone.

    Bodies are drawn without replacement until all are used up, then all over again.

    Args:
        bodies: (kind, body) of each.
        count: How many requests, >= 1.
        seed: Of the order and of the arrivals.
        arrivals: When they are sent; None: all at once.

    Raises:
        ValueError: `count` < 1, or no bodies.
    """
    if count < 1 or not bodies:
        raise ValueError(f"need count >= 1 and bodies, got {count} and {len(bodies)}")
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    order: list[tuple[str, dict[str, Any]]] = []
    while len(order) < count:
        order += chance.sample(list(bodies), len(bodies))
    # From a seed of its own: another arrival process must not shuffle the requests anew.
    times = (arrivals or Arrivals()).times(count, seed=chance.getrandbits(32))
    return [
        TimedRequest(index=index, kind=kind, body=body, due_to_send_s=at_s)
        for index, ((kind, body), at_s) in enumerate(zip(order, times, strict=False))
    ]
