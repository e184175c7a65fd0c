"""What the clients of a chaos run ask for: every job, from the seed alone. Pure.

Called by clients.py. Most are ordinary; the rest are the awkward ones that a queue meets:
cancelled, delayed, with a deadline, handed in twice, poisonous.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lengthwise_lab.chaos.model_server import Fate, Script

#: One in so many jobs kills each worker that takes it. Few, because every death costs a lease.
KILLER_EVERY = 1000

#: The classes of the queue, and how far the second is post-dated, ms.
CLASSES, BATCH_OFFSET_MS = ("interactive", "batch"), 3000.0

#: k, the product's default.
OVERTAKE_FACTOR = 3.0


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One job, and how its client behaves."""

    number: int
    script: Script
    job_class: str
    key: str | None  #: Idempotency key; without one a lost reply is not tried again.
    delay_ms: int
    ttl_ms: int
    max_attempts: int
    twice: bool  #: Handed in at two services at once, under one key.
    conflict: bool  #: Afterwards another request is sent under its key.
    cancel_after_s: float | None
    read: bool  #: Somebody reads its output as it comes, with interruptions.
    explain: bool

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
    return Ask(
        number=number,
        script=script,
        job_class=CLASSES[dice.random() < 0.1],
        key=f"key-{seed}-{number}" if keyed else None,
        delay_ms=dice.randrange(50, 1500) if dice.random() < 0.04 else 0,
        ttl_ms=dice.randrange(200, 3000) if short_lived else 600_000,
        # Many, so that a job rarely meets so many faults that it fails of them.
        max_attempts=2 if fate in ("broken", "killer") else 8,
        twice=twice,
        conflict=keyed and not twice and dice.random() < 0.02,
        cancel_after_s=dice.uniform(0.0, 2.0) if dice.random() < 0.04 else None,
        read=dice.random() < 0.2,
        explain=dice.random() < 0.03,
    )
