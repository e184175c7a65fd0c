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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise_queue.jobs import Claim
from lengthwise_worker.batching import BatchingMode
from lengthwise_worker.engines.base import Answer, Sink
from lengthwise_worker.engines.transformers_wire import Ask, Voice, read
from lengthwise_worker.errors import BadSettings, EngineAway, EngineFailed, EngineRefused
from lengthwise_worker.sequence import Batch, LengthRatios, StepCost, by_memory

if TYPE_CHECKING:
    from lengthwise_worker.engines.static_batch import Generation, StaticDecoder

log = logging.getLogger(__name__)

#: Requests that were claimed together arrive within this of each other, s.
_TOGETHER_S = 0.01


@dataclass(eq=False, kw_only=True)
class _Call:
    """One `answer` under way. Its text is made on the decoder's thread."""

    ask: Ask
    voice: Voice
    generation: Generation
    predicted: float
    deliver: Callable[[bytes], None]
    ended: Callable[[Exception | None], None]
    stream: Any  #: The tokenizer's incremental decoder.
    text: str = ""
    sent: int = 0  #: Characters of `text`.
    spoke: bool = False


@dataclass(kw_only=True)
class Plan:
    """How requests become batches.

    `mode`: none, static (as they come, to their end) or sequence. `largest`: answers of a batch,
    and in `sequence` of a group. `memory_tokens`: prompts and answers of a batch, padding included.
    `quantile`: of an answer's length; so far its first batch goes. `wait_s`: how long a group waits
    for more from its first request on.
    """

    mode: BatchingMode
    largest: int
    memory_tokens: int
    quantile: float = 0.7
    wait_s: float = 0.05
    ratios: LengthRatios = field(default_factory=LengthRatios)
    step_cost: StepCost = field(default_factory=StepCost)


class TransformersEngine:
    """See `Engine`."""

    kind = "transformers"

    def __init__(
        self, *, model_path: Path | None, alias: str, plan: Plan, threads: int = 0
    ) -> None:
        """Nothing is loaded yet.

        Args:
            model_path: A folder with a causal LM and its tokenizer; None: `alias` names one.
            alias: The name under which it serves the model.
            plan: How requests become batches.
            threads: CPU threads; 0: PyTorch's own choice.
        """
        self._path, self._alias, self._plan, self._threads = model_path, alias, plan, threads
        self._decoder: StaticDecoder | None = None
        self._pending: list[_Call] = []
        self._arrived = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.failed = 0  #: Answers that met the cap of a batch, each time.

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Load the model, on a thread: the worker's loop goes on turning."""
        self._decoder = await asyncio.to_thread(self._load)
        self._thread = threading.Thread(
            target=self._serve, args=(self._decoder,), name="static-batches", daemon=True
        )
        self._thread.start()

    def _load(self) -> StaticDecoder:
        try:
            from lengthwise_worker.engines.static_batch import StaticDecoder
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
        call = _Call(
            ask=ask,
            voice=Voice(ask=ask, answer_id=claim.lease.job_id, model=self._alias),
            generation=self._generation(decoder, ask),
            predicted=max(1.0, claim.predicted_tokens),
            deliver=_safely(loop, sink if ask.stream else bodies.append),
            ended=_safely(loop, lambda error: _settle(done, error)),
            stream=_detokenizer(),
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
        from lengthwise_worker.engines.static_batch import Generation

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

    def _gather(self) -> list[_Call] | None:
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

    def _run_group(self, decoder: StaticDecoder, group: list[_Call]) -> list[_Call]:
        """Decode a group; those that met a cap."""
        calls = [call for call in group if not call.generation.cancelled]
        for batch in self._batches(calls):
            members = [calls[at] for at in batch.members if not calls[at].generation.cancelled]
            if members and not self._closing:
                self._run_batch(decoder, members, batch.cap)
        unfinished = [call for call in calls if not call.generation.over]
        self.failed += len(unfinished)
        return unfinished

    def _batches(self, calls: list[_Call]) -> list[Batch]:
        plan = self._plan
        limits = [call.generation.limit for call in calls]
        prompts = [len(call.generation.prompt) for call in calls]
        if plan.mode is not BatchingMode.SEQUENCE:
            return _in_order(prompts, limits, plan)
        caps = [
            min(
                call.generation.limit,
                plan.ratios.cap(
                    call.predicted, has=len(call.generation.tokens), quantile=plan.quantile
                ),
            )
            for call in calls
        ]
        return by_memory(caps, prompts, memory_tokens=plan.memory_tokens, step_cost=plan.step_cost)

    def _run_batch(self, decoder: StaticDecoder, calls: list[_Call], cap: int) -> None:
        words = decoder.tokenizer.backend_tokenizer
        by_generation = {id(call.generation): call for call in calls}

        def on_token(generation: Generation, token: int) -> None:
            call = by_generation[id(generation)]
            piece = call.stream.step(words, token)
            if piece is not None:
                self._speak(call, piece)

        decoder.decode(
            [call.generation for call in calls],
            cap=cap,
            on_token=on_token,
            on_step=self._plan.step_cost.learn,
        )
        for call in calls:
            if call.generation.finished is not None:
                self._end(call)

    def _speak(self, call: _Call, piece: str) -> None:
        """Take a piece of text; a stop text in it is the end."""
        call.text += piece
        for stop in call.ask.stop:
            # Only behind what was sent, less a stop text that began there.
            at = call.text.find(stop, max(0, call.sent - len(stop)))
            if stop and at >= 0:
                call.text = call.text[:at]
                call.generation.finished = "stop"
        self._flush(call)

    def _flush(self, call: _Call) -> None:
        """Send the text, but for what may be the beginning of a stop text."""
        if not call.ask.stream:
            return
        upto = len(call.text)
        if call.generation.finished is None:
            upto -= max((_begun(call.text, stop) for stop in call.ask.stop), default=0)
        if upto > call.sent:
            call.deliver(call.voice.piece(call.text[call.sent : upto], first=not call.spoke))
            call.sent, call.spoke = upto, True

    def _end(self, call: _Call) -> None:
        generation = call.generation
        counts = len(generation.prompt), len(generation.tokens)
        reason = generation.finished or "stop"
        if generation.finished == "stop":
            self._plan.ratios.learn(predicted=call.predicted, actual=max(1, counts[1]))
        if call.ask.stream:
            self._flush(call)
            call.deliver(call.voice.last(reason))
            if call.ask.include_usage:
                call.deliver(call.voice.usage(*counts))
        else:
            call.deliver(call.voice.whole(call.text, reason, *counts))
        call.ended(None)


def _in_order(prompts: list[int], limits: list[int], plan: Plan) -> list[Batch]:
    """As they come, each batch as large as the memory has it if all go to their limit."""
    found: list[Batch] = []
    members: list[int] = []
    prompt = limit = 0
    for at in range(len(prompts)):
        wider, longer = max(prompt, prompts[at]), max(limit, limits[at])
        fits = (len(members) + 1) * (wider + longer) <= plan.memory_tokens
        if members and (not fits or len(members) >= plan.largest):
            found.append(Batch(members=tuple(members), cap=limit))
            members, wider, longer = [], prompts[at], limits[at]
        members.append(at)
        prompt, limit = wider, longer
    if members:
        found.append(Batch(members=tuple(members), cap=limit))
    return found


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _detokenizer() -> Any:
    from tokenizers.decoders import DecodeStream

    return DecodeStream(skip_special_tokens=True)


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
