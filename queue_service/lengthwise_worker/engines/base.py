"""What a worker needs of an engine, whichever it is.

The implementations stand beside this module; `open_engine` in the package chooses one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lengthwise_store.jobs import Claim

#: Takes one piece of a streamed answer: the JSON of one SSE event. Called in order; never blocks.
Sink = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How an answer ended.

    `body`: the whole body, when the answer was not streamed; None: it went to the sink.
    `prompt_tokens`, `output_tokens`: the engine's own count; None: it gave none.
    """

    body: bytes | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


class Engine(Protocol):
    """One engine behind one worker."""

    @property
    def kind(self) -> str:
        """Its name in `WorkerView.engine`."""

    async def start(self) -> None:
        """Start what is embedded; returns when there is something to ask for its health.

        Raises:
            BadSettings: It cannot start with these settings.
        """

    async def healthy(self) -> bool:
        """Whether it would take a job now; never raises for an engine that is away."""

    async def max_model_len(self) -> int | None:
        """Tokens of prompt and answer together that it takes; None: it does not say."""

    async def answer(self, claim: Claim, sink: Sink) -> Answer:
        """Have one job answered. Cancelling this call aborts the engine's work on it.

        Raises:
            EngineError: It did not end with an answer; the subclass says what that means.
        """

    async def aclose(self) -> None:
        """Close connections, and stop what is embedded."""
