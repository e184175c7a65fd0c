"""The engine for LENGTHWISE_WORKER_ENGINE=transformers: a Hugging Face model in this process.

`answer` gives a request to the one thread that decodes, and receives its tokens. The batching mode
decides what runs together: batch_planner.py.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise_store.jobs import Claim
from lengthwise_worker.batching import BatchingMode
from lengthwise_worker.engines.base import EngineResponse, Health, Sink
from lengthwise_worker.engines.transformers.batch_planner import BatchPlanner
from lengthwise_worker.engines.transformers.openai_format import (
    DecodingRequest,
    ResponseFormatter,
    parse_request,
)
from lengthwise_worker.engines.transformers.pending_request import PendingRequest
from lengthwise_worker.errors import BadSettings, EngineFailed, EngineRefused, EngineUnavailable

if TYPE_CHECKING:
    from lengthwise_worker.engines.transformers.decoder import Generation, StaticDecoder
    from lengthwise_worker.settings import Settings

log = logging.getLogger(__name__)

#: Requests that were claimed together arrive within this time, s.
_TOGETHER_S = 0.01


class TransformersEngine:
    """A model that decodes static batches. See `Engine`."""

    kind = "transformers"
    patience_s = 3600.0  # answers pause between batches, and a probe says nothing about the model

    def __init__(
        self,
        *,
        model_path: Path | None,
        alias: str,
        planner: BatchPlanner,
        threads: int = 0,
        decoder: StaticDecoder | None = None,
    ) -> None:
        """Store the settings. Nothing is loaded yet.

        Args:
            model_path: A folder with a causal LM and its tokenizer; None: `alias` names one.
            alias: The name under which it serves the model.
            planner: Cuts requests into batches.
            threads: CPU threads; 0: PyTorch's own choice.
            decoder: A loaded model; None: `start` loads one.
        """
        self._path, self._alias, self._threads = model_path, alias, threads
        self._planner = planner
        self._decoder = decoder
        self._pending: list[PendingRequest] = []
        self._arrived = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.capped = 0  #: How often an answer reached the cap of its batch.

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Load the model in a thread, so that the event loop is not blocked."""
        if self._decoder is None:
            self._decoder = await asyncio.to_thread(self._load)
        self._thread = threading.Thread(
            target=self._serve, args=(self._decoder,), name="static-batches", daemon=True
        )
        self._thread.start()

    def _load(self) -> StaticDecoder:
        try:
            from lengthwise_worker.engines.transformers.decoder import StaticDecoder
        except ImportError as exc:
            raise BadSettings(
                "The transformers engine needs PyTorch and transformers: "
                "pip install 'lengthwise[transformers]'."
            ) from exc
        path = self._path or self._alias
        try:
            return StaticDecoder(path, threads=self._threads)
        except (OSError, ValueError) as exc:
            raise BadSettings(
                f"No causal LM at {path}: set LENGTHWISE_WORKER_MODEL_PATH to a folder "
                f"with one and its tokenizer. {exc}"
            ) from exc

    @property
    def decoder(self) -> StaticDecoder | None:
        """The loaded model and its counters; None before `start`."""
        return self._decoder

    async def health(self) -> Health:
        """Report whether the thread runs; and the context, or a batch's memory if that is less."""
        if self._decoder is None or self._thread is None or not self._thread.is_alive():
            return Health(problem="The model is not loaded.")
        return Health(max_model_len=min(self._decoder.context, self._planner.memory_tokens))

    async def probe(self) -> None:
        """Check the thread. A token would wait for the batch that runs, however long it takes."""
        if (problem := (await self.health()).problem) is not None:
            raise EngineUnavailable(problem)

    async def aclose(self) -> None:
        """Stop the thread. Unfinished answers are dropped."""
        with self._arrived:
            self._closing = True
            for pending in self._pending:
                pending.generation.cancelled = True
            self._arrived.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # ------------------------------------------------------------------ one request

    async def answer(self, claim: Claim, sink: Sink) -> EngineResponse:
        """Run one job. See `Engine`."""
        decoder = self._decoder
        await self.probe()
        if decoder is None:
            raise EngineUnavailable("The model is not loaded.")
        request = parse_request(claim)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        bodies: list[bytes] = []
        pending = PendingRequest(
            request=request,
            formatter=ResponseFormatter(
                request=request, answer_id=claim.lease.job_id, model=self._alias
            ),
            generation=self._generation(decoder, request),
            predicted=max(1.0, claim.predicted_tokens),
            deliver=_threadsafe(loop, sink if request.stream else bodies.append),
            finished=_threadsafe(loop, lambda error: _resolve(done, error)),
        )
        with self._arrived:
            self._pending.append(pending)
            self._arrived.notify()
        try:
            await done
        finally:
            pending.generation.cancelled = True  # no effect if it has ended
        generation = pending.generation
        return EngineResponse(
            body=None if request.stream else bodies[0],
            prompt_tokens=len(generation.prompt),
            output_tokens=len(generation.tokens),
        )

    def _generation(self, decoder: StaticDecoder, request: DecodingRequest) -> Generation:
        from lengthwise_worker.engines.transformers.decoder import Generation

        tokenizer = decoder.tokenizer
        if not request.chat:
            prompt = (
                request.prompt
                if isinstance(request.prompt, list)
                else tokenizer(request.prompt).input_ids
            )
        elif tokenizer.chat_template:
            text = tokenizer.apply_chat_template(
                request.messages, tokenize=False, add_generation_prompt=True
            )
            prompt = tokenizer(text, add_special_tokens=False).input_ids
        else:
            raise EngineRefused("This model has no chat template: use /v1/completions.", status=400)
        if not prompt or max(prompt) >= decoder.model.config.vocab_size:
            raise EngineRefused("The prompt is empty, or has an unknown token.", status=400)
        room = min(decoder.context, self._planner.memory_tokens) - len(prompt)
        if room < 1 or (request.max_tokens or 1) > room:
            raise EngineRefused(
                f"The prompt has {len(prompt)} tokens, the answer may have "
                f"{request.max_tokens or 1}: "
                f"more than the {room + len(prompt)} that the model accepts.",
                status=400,
            )
        return Generation(
            prompt=list(prompt),
            limit=request.max_tokens or room,
            ends=frozenset() if request.ignore_eos else decoder.ends,
            min_tokens=request.min_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
        )

    # ------------------------------------------------------------------ the decoder's thread

    def _serve(self, decoder: StaticDecoder) -> None:
        while (group := self._gather()) is not None:
            try:
                unfinished = self._run_group(decoder, group)
            except Exception as exc:
                # The outermost frame of the thread. These jobs are retried.
                log.exception("batch failed", extra={"jobs": len(group)})
                for pending in group:  # it has no effect on those that have ended
                    pending.finished(EngineFailed(f"The model failed: {exc!r}."))
                unfinished = []
            with self._arrived:
                self._pending[:0] = unfinished

    def _gather(self) -> list[PendingRequest] | None:
        """Return the next group: requests that wait, and that arrive in time; None: closing."""
        planner = self._planner
        with self._arrived:
            while not self._pending and not self._closing:
                self._arrived.wait()
            wait_s = planner.wait_s if planner.mode is BatchingMode.SEQUENCE else _TOGETHER_S
            ends = time.monotonic() + wait_s
            while len(self._pending) < planner.largest and not self._closing:
                left = ends - time.monotonic()
                if left <= 0:
                    break
                self._arrived.wait(left)
            if self._closing:
                return None
            group = self._pending[: planner.largest]
            del self._pending[: planner.largest]
            return group

    def _run_group(
        self, decoder: StaticDecoder, group: list[PendingRequest]
    ) -> list[PendingRequest]:
        """Decode a group. Return the requests that reached a cap."""
        requests = [pending for pending in group if not pending.generation.cancelled]
        for batch in self._planner.batches(requests):
            members = [
                requests[at] for at in batch.members if not requests[at].generation.cancelled
            ]
            if members and not self._closing:
                self._run_batch(decoder, members, batch.cap)
        unfinished = [pending for pending in requests if not pending.generation.over]
        self.capped += len(unfinished)
        return unfinished

    def _run_batch(
        self, decoder: StaticDecoder, requests: list[PendingRequest], steps: int
    ) -> None:
        tokenizer = decoder.tokenizer.backend_tokenizer
        by_generation = {id(pending.generation): pending for pending in requests}

        def on_token(generation: Generation, token: int) -> None:
            by_generation[id(generation)].add_token(tokenizer, token)

        decoder.decode(
            [pending.generation for pending in requests],
            steps=steps,
            on_token=on_token,
            on_step=self._planner.step_cost.learn,
        )
        for pending in requests:
            if pending.generation.finished is not None:
                if pending.generation.finished == "stop":
                    self._planner.learn(pending)
                pending.end()


def from_settings(settings: Settings) -> TransformersEngine:
    """Build the engine from a worker's settings."""
    return TransformersEngine(
        model_path=settings.model_path,
        alias=settings.queue,
        planner=BatchPlanner(
            mode=settings.batching,
            largest=1 if settings.batching is BatchingMode.NONE else settings.slots,
            memory_tokens=settings.batch_tokens,
            quantile=settings.sequence_quantile,
            wait_s=settings.static_wait_ms / 1000,
        ),
        threads=settings.threads,
    )


def _threadsafe(loop: asyncio.AbstractEventLoop, call: Callable[..., None]) -> Callable[..., None]:
    """Wrap a call so that the loop makes it, from any thread. A closed loop ignores it."""

    def later(*args: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call, *args)

    return later


def _resolve(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
