"""The requests of the demo: those of three applications, from yes or no to long articles.

Called by `lengthwise demo`. Each application fills a template, as applications do. The longest
prompts have the shortest answers, so that the length of the prompt reveals nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from lengthwise_lab.loadtest.compare import PolicyRun
from lengthwise_lab.loadtest.measures import quantile
from lengthwise_lab.loadtest.workload import TimedRequest, chat_body


@dataclass(frozen=True, kw_only=True)
class Application:
    """One application.

    Attributes:
        kind: Its `kind` in a workload.
        name: What it asks for, for people.
        template: The prompt, with `{}` for the text.
        texts: One request each.
    """

    kind: str
    name: str
    template: str
    texts: list[str]


def applications() -> list[Application]:
    """Return the three applications, shortest answers first."""
    text = files("lengthwise_lab.loadtest").joinpath("applications.json").read_text("utf-8")
    return [Application(**row) for row in json.loads(text)]


def mixed_requests(*, count: int | None = None, max_tokens: int, seed: int) -> list[TimedRequest]:
    """Return requests of all applications, mixed as if each came at a steady rate.

    A plain shuffle of few requests often puts the long ones at one end, and then first come, first
    served is by chance the best order or the worst. Here each application is spread evenly over the
    whole, with the seed deciding the places.

    Every body has the same `max_tokens`, so that the cap does not reveal the length. llama.cpp's
    prompt cache is off: two orders of the same requests would find different prompts in it.

    Args:
        count: How many requests; None: each text once. More than that repeats texts.
        max_tokens: Cap of every answer, tokens.
        seed: Seed of the order.
    """
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    placed = []
    for app, many in _shares(count):
        texts = rng.sample(app.texts, len(app.texts))
        for n in range(many):
            body = chat_body(app.template.format(texts[n % len(texts)]), max_tokens=max_tokens)
            placed.append(((n + rng.random()) / many, app.kind, {**body, "cache_prompt": False}))
    placed.sort(key=lambda item: item[0])
    return [
        TimedRequest(index=index, kind=kind, body=body)
        for index, (_, kind, body) in enumerate(placed)
    ]


def _shares(count: int | None) -> list[tuple[Application, int]]:
    """Share `count` requests among the applications, by the number of their texts."""
    apps = applications()
    every = sum(len(app.texts) for app in apps)
    exact = [(count or every) * len(app.texts) / every for app in apps]
    shares = [int(share) for share in exact]
    by_rest = sorted(range(len(apps)), key=lambda i: shares[i] - exact[i])
    for i in by_rest[: (count or every) - sum(shares)]:
        shares[i] += 1
    return list(zip(apps, shares, strict=True))


@dataclass(frozen=True, kw_only=True)
class ApplicationTimes:
    """What the requests of one application got under each policy.

    Attributes:
        kind: The application's kind.
        name: What it asks for.
        requests: How many requests were answered under every policy.
        median_tokens: Median length of their answers.
        mean_s: Policy -> mean time to the whole answer, s.
    """

    kind: str
    name: str
    requests: int
    median_tokens: float
    mean_s: dict[str, float]


def times_by_application(
    runs: Sequence[PolicyRun], requests: Sequence[TimedRequest]
) -> list[ApplicationTimes]:
    """Compare the policies application by application, shortest answers first.

    Only requests that every policy answered count, so that all means are of the same requests.
    """
    rows = []
    for app in applications():
        mine = {r.index for r in requests if r.kind == app.kind}
        for run in runs:
            mine &= {s.index for s in run.samples if s.ok}
        if not mine:
            continue
        answered = {run.policy: [s for s in run.samples if s.index in mine] for run in runs}
        tokens = [float(s.output_tokens or 0) for s in answered[runs[0].policy]]
        rows.append(
            ApplicationTimes(
                kind=app.kind,
                name=app.name,
                requests=len(mine),
                median_tokens=quantile(tokens, 0.5),
                mean_s={
                    policy: sum(s.completion_s or 0.0 for s in samples) / len(samples)
                    for policy, samples in answered.items()
                },
            )
        )
    return rows
