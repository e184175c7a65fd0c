"""The jobs of a chaos run. They follow from the seed. Pure.

Called by job_clients.py, and by model_server.py for the script in a prompt. Most jobs are ordinary.
The others are the difficult ones of a queue: cancelled, delayed, with a deadline, submitted twice,
left by their client, or fatal to their worker.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, replace
from typing import Literal

from lengthwise_contract.defaults import MAX_ATTEMPTS

#: One in this many jobs kills each worker that claims it. Few, because each death costs a lease.
KILLER_EVERY = 1000

#: The classes of the queue, and the offset of the second, ms.
CLASSES, BATCH_OFFSET_MS = ("interactive", "batch"), 3000.0

#: Tenant -> its share of the jobs. With so few, often only two of them have waiting jobs.
TENANTS = {"many": 6, "some": 3, "few": 1}

#: k, the product's default.
OVERTAKE_FACTOR = 3.0


#: The result of an engine call: answered; refused (400); broken (500) always; flaky: 500 the first
#: time only; or killer: the worker dies.
Fate = Literal["answered", "refused", "broken", "flaky", "killer"]

#: The routes by which a client asks for an answer, and their shares of the jobs that may take each.
Route = Literal["jobs", "chat", "chat_stream", "response", "response_stream"]
ROUTES: dict[Route, float] = {
    "jobs": 0.64,
    "chat": 0.10,
    "chat_stream": 0.14,
    "response": 0.06,
    "response_stream": 0.06,
}

#: The longest time of an engine for an answer, ms: half of its timeout, because an answer that is
#: not streamed is silent until it is complete.
LONGEST_MS = 1500.0

#: Length of the text behind the script in a large prompt, characters: above the body limit of a
#: service that is restarted with a lower one.
LARGE_PADDING = 3000


@dataclass(frozen=True, kw_only=True)
class AnswerScript:
    """The behaviour of the engine with one job. It is the prompt of the job.

    The engine sends `pieces` within `service_ms` and reports `tokens`. The predictor predicts
    `predicted_tokens`.
    """

    ref: str
    fate: Fate
    pieces: int
    service_ms: float
    tokens: int
    predicted_tokens: float

    def as_prompt(self) -> str:
        """Return the prompt."""
        return json.dumps(asdict(self), separators=(",", ":"))


def read_prompt(text: str) -> AnswerScript:
    """Parse the script in a prompt. A chat template may have added text around it."""
    return AnswerScript(**json.loads(text[text.index("{") : text.rindex("}") + 1]))


@dataclass(frozen=True, kw_only=True)
class ChaosJob:
    """One job, and what its client does with it."""

    number: int
    script: AnswerScript
    job_class: str
    tenant: str
    key: str | None  #: Idempotency key; without one, a submit without a reply is not repeated.
    delay_ms: int
    ttl_ms: int
    max_attempts: int
    twice: bool  #: Submitted at two services at once, under one key.
    conflict: bool  #: A different request is sent under its key afterwards.
    cancel_after_s: float | None
    read: bool  #: A reader streams its output, with disconnects.
    explain: bool
    peek: bool  #: Another tenant tries to read it.
    route: Route
    patience_s: float | None  #: The client leaves its first request after this time.
    stubborn: bool  #: Without a key: the client sends the request again when it was refused.
    padding: int

    @property
    def ref(self) -> str:
        """Its name, which its output contains."""
        return self.script.ref

    @property
    def prompt(self) -> str:
        """The script, and a text that makes the prompt longer."""
        return self.script.as_prompt() + " " * bool(self.padding) + "x" * self.padding

    def again(self, number: int) -> ChaosJob:
        """Return the same job as another one, for the same request without a key."""
        return replace(self, script=replace(self.script, ref=f"{self.ref}r{number}"))


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """One batch, and what its client does with it."""

    ref: str
    tenant: str
    lines: list[AnswerScript]
    cancel_after_s: float | None
    padding: int  #: Of some of its lines: large ones, in some batches.


def batch_of(seed: int, number: int) -> BatchJob:
    """Return the batch of a number. It is the same for the same seed."""
    rng = random.Random(f"{seed}:batch:{number}")  # noqa: S311 - must repeat
    ref = f"b{seed}-{number}"
    kinds: tuple[Fate, ...] = ("answered", "refused", "flaky")
    fates = rng.choices(kinds, (20, 1, 1), k=rng.randrange(1, 50))
    return BatchJob(
        ref=ref,
        tenant=rng.choices(list(TENANTS), list(TENANTS.values()))[0],
        lines=[_script(rng, f"{ref}-{i}", fate, long=False) for i, fate in enumerate(fates)],
        cancel_after_s=rng.uniform(0.0, 6.0) if rng.random() < 0.2 else None,
        padding=LARGE_PADDING if rng.random() < 0.5 else 0,
    )


def _script(rng: random.Random, ref: str, fate: Fate, *, long: bool) -> AnswerScript:
    tokens = max(4, round(rng.lognormvariate(5.0 + 1.5 * long, 0.9)))
    return AnswerScript(
        ref=ref,
        fate=fate,
        pieces=min(40, 1 + tokens // 20),
        service_ms=min(LONGEST_MS, 20.0 + 1.0 * tokens),
        tokens=tokens,
        predicted_tokens=round(tokens * rng.lognormvariate(0.0, 0.4), 1),
    )


def job_of(seed: int, number: int) -> ChaosJob:
    """Return the job of a number. It is the same for the same seed."""
    rng = random.Random(f"{seed}:{number}")  # noqa: S311 - must repeat
    fate: Fate = "answered"
    if number % KILLER_EVERY == KILLER_EVERY // 2:
        fate = "killer"
    elif rng.random() < 0.05:
        fate = rng.choice(("refused", "broken", "flaky", "flaky"))
    keyed = rng.random() < 0.7
    twice = keyed and rng.random() < 0.1
    short_lived = rng.random() < 0.03
    script = _script(rng, f"j{seed}-{number}", fate, long=rng.random() < 0.05)
    delay_ms = rng.randrange(50, 1500) if rng.random() < 0.04 else 0
    conflict = keyed and not twice and rng.random() < 0.02
    cancel_after_s = rng.uniform(0.0, 2.0) if rng.random() < 0.04 else None
    plain = fate in ("answered", "flaky") and not (delay_ms or conflict or cancel_after_s)
    route = rng.choices(list(ROUTES), list(ROUTES.values()))[0]
    if not plain or twice or short_lived:
        route = "jobs"
    jobs = route == "jobs"
    return ChaosJob(
        number=number,
        script=script,
        job_class=CLASSES[rng.random() < 0.1 and jobs],
        tenant=rng.choices(list(TENANTS), list(TENANTS.values()))[0],
        key=f"key-{seed}-{number}" if keyed else None,
        delay_ms=delay_ms,
        ttl_ms=rng.randrange(200, 3000) if short_lived else 600_000,
        # Many, so that faults rarely use up the attempts of a job. The OpenAI endpoints have no
        # field for it.
        max_attempts=2 if fate in ("broken", "killer") else 8 if jobs else MAX_ATTEMPTS,
        twice=twice,
        conflict=conflict,
        cancel_after_s=cancel_after_s,
        read=rng.random() < 0.2 and jobs,
        explain=rng.random() < 0.03,
        peek=rng.random() < 0.03,
        route=route,
        patience_s=rng.uniform(0.1, 3.0) if not jobs and rng.random() < 0.25 else None,
        stubborn=not keyed and rng.random() < 0.5,
        padding=LARGE_PADDING if rng.random() < 0.03 else 0,
    )
