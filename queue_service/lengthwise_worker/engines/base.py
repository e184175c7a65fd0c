"""The interface between a worker and an engine.

The implementations are the other modules of this folder. `open_engine` in the package builds the
one that the settings name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lengthwise_store.jobs import Claim

#: Takes one piece of a streamed answer: the JSON of one SSE event. Called in order; never blocks.
Sink = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True)
class EngineResponse:
    """A complete answer of an engine.

    `body`: the response body of an answer that was not streamed; None: the answer went to the
    sink. `prompt_tokens`, `output_tokens`: the engine's own counts; None: it reported none.
    `usage_details`: what it reported beside them, a JSON object, such as cached tokens.
    """

    body: bytes | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    usage_details: str | None = None


@dataclass(frozen=True, kw_only=True)
class Health:
    """What an engine reported about itself.

    `problem`: why it cannot get work, in words; None: nothing is wrong. `certain`: False when its
    answers leave open whether it serves the model, so that a probe has to tell. `max_model_len`:
    tokens of prompt and answer together that the model accepts; None: it did not report them.
    """

    problem: str | None = None
    certain: bool = True
    max_model_len: int | None = None


class Engine(Protocol):
    """One engine behind one worker.

    `patience_s`: how long it may be silent, at first, before a probe is sent, and how long that may
    take, s. The worker learns more from the engine.
    """

    patience_s: float

    @property
    def kind(self) -> str:
        """Its name in `WorkerView.engine`."""

    async def start(self) -> None:
        """Start what is embedded. `health` may be called after this returns.

        Raises:
            BadSettings: It cannot start with these settings.
        """

    async def health(self) -> Health:
        """Ask the engine how it is, and which model it serves. No answer is not an error."""

    async def probe(self) -> None:
        """Have one token of the worker's own model generated.

        Raises:
            EngineError: That failed. The caller bounds the time.
        """

    async def answer(self, claim: Claim, sink: Sink) -> EngineResponse:
        """Run one job. Cancelling this call aborts the engine's work on the job.

        Raises:
            EngineError: The job got no answer. The subclass says what the worker does next.
        """

    async def aclose(self) -> None:
        """Close the connections and stop what is embedded."""
