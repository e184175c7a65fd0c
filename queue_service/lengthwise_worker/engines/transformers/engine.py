"""A Hugging Face model in this process, answering in static batches: for batch work.

One thread decodes; `answer` hands it requests and hears its tokens. Chosen by ENGINE=transformers;
what runs together is decided by the batching mode, in `sequence` mode by ../sequence.py.
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
from lengthwise_worker.engines.base import Answer, Sink
from lengthwise_worker.engines.transformers.call import Call
from lengthwise_worker.engines.transformers.plan import Plan
from lengthwise_worker.engines.transformers.wire import Ask, Voice, read
from lengthwise_worker.errors import BadSettings, EngineAway, EngineFailed, EngineRefused

if TYPE_CHECKING:
    from lengthwise_worker.engines.transformers.static_batch import Generation, StaticDecoder

log = logging.getLogger(__name__)

#: Requests that were claimed together arrive within this of each other, s.
_TOGETHER_S = 0.01


class TransformersEngine:
    """See `Engine`."""

    kind = "transformers"

    def __init__(
        self,
        *,
        model_path: Path | None,
        alias: str,
        plan: Plan,
        threads: int = 0,
        decoder: StaticDecoder | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            model_path: A folder with a causal LM and its tokenizer; None: `alias` names one.
            alias: The name under which it serves the model.
            plan: How requests become batches.
            threads: CPU threads; 0: PyTorch's own choice.
            decoder: A model that is loaded already; None: `start` loads it.
        """
        self._path, self._alias, self._plan, self._threads = model_path, alias, plan, threads
        self._decoder = decoder
        self._pending: list[Call] = []
        self._arrived = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.failed = 0  #: Answers that met the cap of a batch, each time.

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Load the model, on a thread: the worker's loop goes on turning."""
        if self._decoder is None:
            self._decoder = await asyncio.to_thread(self._load)
        self._thread = threading.Thread(
            target=self._serve, args=(self._decoder,), name="static-batches", daemon=True
        )
        self._thread.start()

    def _load(self) -> StaticDecoder:
        try:
            from lengthwise_worker.engines.transformers.static_batch import StaticDecoder
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
                f"There is no causal LM at {path}: set LENGTHWISE_WORKER_MODEL_PATH to a folder "
                f"with one and its tokenizer. {exc}"
            ) from exc

    @property
    def decoder(self) -> StaticDecoder | None:
        """What decodes, and what it has done; None before `start`."""
        return self._decoder

    async def healthy(self) -> bool:
        """Whether its thread lives."""
        return self._thread is not None and self._thread.is_alive()

    async def max_model_len(self) -> int | None:
        """What the model takes, or what fits into the memory of a batch if that is less."""
        if self._decoder is None:
            return None
        return min(self._decoder.context, self._plan.memory_tokens)

    async def aclose(self) -> None:
        """End the thread; what it still decodes is given up."""
        with self._arrived:
            self._closing = True
            for call in self._pending:
                call.generation.cancelled = True
            self._arrived.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # ------------------------------------------------------------------ one request

    async def answer(self, claim: Claim, sink: Sink) -> Answer:
        """Have one job answered; see `Engine`."""
        decoder = self._decoder
        if decoder is None or not await self.healthy():
            raise EngineAway("The model is not loaded.")
        ask = read(claim)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        bodies: list[bytes] = []
        call = Call(
            ask=ask,
            voice=Voice(ask=ask, answer_id=claim.lease.job_id, model=self._alias),
            generation=self._generation(decoder, ask),
            predicted=max(1.0, claim.predicted_tokens),
            deliver=_safely(loop, sink if ask.stream else bodies.append),
            ended=_safely(loop, lambda error: _settle(done, error)),
        )
        with self._arrived:
            self._pending.append(call)
            self._arrived.notify()
        try:
            await done
        finally:
            call.generation.cancelled = True  # a harmless word when it has ended
        generation = call.generation
        return Answer(
            body=None if ask.stream else bodies[0],
            prompt_tokens=len(generation.prompt),
            output_tokens=len(generation.tokens),
        )

    def _generation(self, decoder: StaticDecoder, ask: Ask) -> Generation:
        from lengthwise_worker.engines.transformers.static_batch import Generation

        tokenizer = decoder.tokenizer
        if not ask.chat:
            prompt = ask.prompt if isinstance(ask.prompt, list) else tokenizer(ask.prompt).input_ids
        elif tokenizer.chat_template:
            text = tokenizer.apply_chat_template(
                ask.messages, tokenize=False, add_generation_prompt=True
            )
            prompt = tokenizer(text, add_special_tokens=False).input_ids
        else:
            raise EngineRefused("This model has no chat template: use /v1/completions.", status=400)
        if not prompt or max(prompt) >= decoder.model.config.vocab_size:
            raise EngineRefused("The prompt is empty, or has an unknown token.", status=400)
        room = min(decoder.context, self._plan.memory_tokens) - len(prompt)
        if room < 1 or (ask.max_tokens or 1) > room:
            raise EngineRefused(
                f"The prompt has {len(prompt)} tokens, the answer may have {ask.max_tokens or 1}: "
                f"more than the {room + len(prompt)} that the model takes.",
                status=400,
            )
        return Generation(
            prompt=list(prompt),
            limit=ask.max_tokens or room,
            ends=frozenset() if ask.ignore_eos else decoder.ends,
            min_tokens=ask.min_tokens,
            temperature=ask.temperature,
            top_p=ask.top_p,
            seed=ask.seed,
        )

    # ------------------------------------------------------------------ the decoder's thread

    def _serve(self, decoder: StaticDecoder) -> None:
        while (group := self._gather()) is not None:
            try:
                unfinished = self._run_group(decoder, group)
            except Exception as exc:
                # The outermost frame of the thread: these jobs are tried again, the next may work.
                log.exception("batch broke", extra={"jobs": len(group)})
                for call in group:  # those that have ended do not hear it
                    call.ended(EngineFailed(f"The model broke: {exc!r}."))
                unfinished = []
            with self._arrived:
                self._pending[:0] = unfinished

    def _gather(self) -> list[Call] | None:
        """The next group: who is there, and who comes while it waits; None: the end."""
        plan = self._plan
        with self._arrived:
            while not self._pending and not self._closing:
                self._arrived.wait()
            wait_s = plan.wait_s if plan.mode is BatchingMode.SEQUENCE else _TOGETHER_S
            ends = time.monotonic() + wait_s
            while len(self._pending) < plan.largest and not self._closing:
                left = ends - time.monotonic()
                if left <= 0:
                    break
                self._arrived.wait(left)
            if self._closing:
                return None
            group = self._pending[: plan.largest]
            del self._pending[: plan.largest]
            return group

    def _run_group(self, decoder: StaticDecoder, group: list[Call]) -> list[Call]:
        """Decode a group; those that met a cap."""
        calls = [call for call in group if not call.generation.cancelled]
        for batch in self._plan.batches(calls):
            members = [calls[at] for at in batch.members if not calls[at].generation.cancelled]
            if members and not self._closing:
                self._run_batch(decoder, members, batch.cap)
        unfinished = [call for call in calls if not call.generation.over]
        self.failed += len(unfinished)
        return unfinished

    def _run_batch(self, decoder: StaticDecoder, calls: list[Call], steps: int) -> None:
        words = decoder.tokenizer.backend_tokenizer
        by_generation = {id(call.generation): call for call in calls}

        def on_token(generation: Generation, token: int) -> None:
            call = by_generation[id(generation)]
            call.hear(words, token)

        decoder.decode(
            [call.generation for call in calls],
            steps=steps,
            on_token=on_token,
            on_step=self._plan.step_cost.learn,
        )
        for call in calls:
            if call.generation.finished is not None:
                if call.generation.finished == "stop":
                    self._plan.learn(call)
                call.end()


def _safely(loop: asyncio.AbstractEventLoop, call: Callable[..., None]) -> Callable[..., None]:
    """Have the loop make a call, from another thread; a loop that has closed needs it no more."""

    def later(*args: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call, *args)

    return later


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
