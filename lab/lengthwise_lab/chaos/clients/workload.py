"""What the clients of a chaos run ask for: every job, from the seed alone. Pure.

Called by clients.py, and by model_server.py for the script in a prompt. Most are ordinary; the rest
are the awkward ones that a queue meets: cancelled, delayed, with a deadline, handed in twice,
poisonous.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from typing import Literal

#: One in so many jobs kills each worker that takes it. Few, because every death costs a lease.
KILLER_EVERY = 1000

#: The classes of the queue, and how far the second is post-dated, ms.
CLASSES, BATCH_OFFSET_MS = ("interactive", "batch"), 3000.0

#: Tenant -> its part of the jobs; with so few, two of them are often alone in the line.
TENANTS = {"many": 6, "some": 3, "few": 1}

#: k, the product's default.
OVERTAKE_FACTOR = 3.0


#: What becomes of a call of the engine: answered; refused (400); broken (500) always, or the first
#: time only; or its worker dies of it.
Fate = Literal["answered", "refused", "broken", "flaky", "killer"]


@dataclass(frozen=True, kw_only=True)
class Script:
    """What the engine does with one job, written into its prompt.

    `pieces` come over `service_ms`; `tokens` is what the engine says it made, `predicted_tokens`
    what the predictor says that it will.
    """

    ref: str
    fate: Fate
    pieces: int
    service_ms: float
    tokens: int
    predicted_tokens: float

    def as_prompt(self) -> str:
        """The prompt that asks for it."""
        return json.dumps(asdict(self), separators=(",", ":"))


def read_prompt(text: str) -> Script:
    """The script in a prompt, which may be rendered with marks around it."""
    return Script(**json.loads(text[text.index("{") : text.rindex("}") + 1]))


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One job, and how its client behaves."""

    number: int
    script: Script
    job_class: str
    tenant: str
    key: str | None  #: Idempotency key; without one a lost reply is not tried again.
    delay_ms: int
    ttl_ms: int
    max_attempts: int
    twice: bool  #: Handed in at two services at once, under one key.
    conflict: bool  #: Afterwards another request is sent under its key.
    cancel_after_s: float | None
    read: bool  #: Somebody reads its output as it comes, with interruptions.
    explain: bool
    peek: bool  #: Another tenant tries to look at it.
    chat: bool  #: Asked for as an OpenAI stream, and again under its key until it is answered.

    @property
    def ref(self) -> str:
        """Its name, which its output carries."""
        return self.script.ref


def ask(seed: int, number: int) -> Ask:
    """The job of that number: the same for the same seed."""
    dice = random.Random(f"{seed}:{number}")  # noqa: S311 - must repeat
    long = dice.random() < 0.05
    tokens = max(4, round(dice.lognormvariate(5.0 + 1.5 * long, 0.9)))
    fate: Fate = "answered"
    if number % KILLER_EVERY == KILLER_EVERY // 2:
        fate = "killer"
    elif dice.random() < 0.05:
        fate = dice.choice(("refused", "broken", "flaky", "flaky"))
    keyed = dice.random() < 0.7
    twice = keyed and dice.random() < 0.1
    short_lived = dice.random() < 0.03
    script = Script(
        ref=f"j{seed}-{number}",
        fate=fate,
        pieces=min(40, 1 + tokens // 20),
        service_ms=min(4000.0, 20.0 + 1.0 * tokens),
        tokens=tokens,
        predicted_tokens=round(tokens * dice.lognormvariate(0.0, 0.4), 1),
    )
    delay_ms = dice.randrange(50, 1500) if dice.random() < 0.04 else 0
    conflict = keyed and not twice and dice.random() < 0.02
    cancel_after_s = dice.uniform(0.0, 2.0) if dice.random() < 0.04 else None
    plain = fate in ("answered", "flaky") and not (delay_ms or conflict or cancel_after_s)
    chat = keyed and plain and not (twice or short_lived) and dice.random() < 0.15
    attempts = 3 if chat else 8  # that face has no way to ask for more
    return Ask(
        number=number,
        script=script,
        job_class=CLASSES[dice.random() < 0.1 and not chat],
        tenant=dice.choices(list(TENANTS), list(TENANTS.values()))[0],
        key=f"key-{seed}-{number}" if keyed else None,
        delay_ms=delay_ms,
        ttl_ms=dice.randrange(200, 3000) if short_lived else 600_000,
        # Many, so that a job rarely meets so many faults that it fails of them.
        max_attempts=2 if fate in ("broken", "killer") else attempts,
        twice=twice,
        conflict=conflict,
        cancel_after_s=cancel_after_s,
        read=dice.random() < 0.2 and not chat,
        explain=dice.random() < 0.03,
        peek=dice.random() < 0.03,
        chat=chat,
    )
