"""Decode static batches with a Hugging Face causal LM. The only module here that needs PyTorch.

Called by engine.py, on one thread. A batch is prefilled once, left-padded. Each step then adds one
token to each of its answers.
"""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging as transformers_logging

#: Finished and cancelled rows are removed from the tensors when they reach this share of the batch.
#: A removal costs about a step.
_LEAVE = 0.25


@dataclass(kw_only=True, eq=False)
class Generation:
    """One answer in progress. If it reaches the cap of its batch, it continues in another batch.

    `prompt`, `tokens`: token ids. `limit`: its maximum number of tokens. `ends`: ids that end it.
    `cancelled` may be set from another thread, and takes effect at the next step.
    """

    prompt: list[int]
    limit: int
    ends: frozenset[int]
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    tokens: list[int] = field(default_factory=list)
    finished: str | None = None  #: Why it ended: `stop` or `length`.
    cancelled: bool = False
    generator: torch.Generator | None = None

    @property
    def over(self) -> bool:
        """Whether it needs no more tokens."""
        return self.finished is not None or self.cancelled


@dataclass(kw_only=True)
class Work:
    """Counters of a decoder. `computed`: token slots of all steps, padding included."""

    batches: int = 0
    steps: int = 0
    computed: int = 0
    kept: int = 0
    prefilled: int = 0
    seconds: float = 0.0


#: Called with each token, in order. It may set `finished` (a stop text).
OnToken = Callable[[Generation, int], None]


class StaticDecoder:
    """A loaded model and its counters."""

    def __init__(self, path: str | Path, *, threads: int = 0, leave: bool = True) -> None:
        """Load the model.

        Args:
            path: A folder of a Hugging Face causal LM, or the name of one.
            threads: CPU threads of PyTorch, of this process; 0: its own choice.
            leave: Whether finished rows leave a batch; False: plain static batching.

        Raises:
            OSError, ValueError: The model cannot be loaded.
        """
        if threads:
            torch.set_num_threads(threads)
        transformers_logging.disable_progress_bar()  # it writes to stderr, like our log
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
        self.model = model.to(self.device).eval()
        # `past_key_values` was renamed in transformers 5; versions from 4.57 on are supported.
        parameters = inspect.signature(type(model).forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        self.leave = leave
        self.work = Work()
        ends = self.model.generation_config.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together that the model accepts."""
        return int(self.model.config.max_position_embeddings)

    def decode(
        self,
        batch: Sequence[Generation],
        *,
        steps: int | None = None,
        on_token: OnToken | None = None,
        on_step: Callable[[int, float], None] | None = None,
    ) -> None:
        """Run a batch until all its answers end, or for `steps` more tokens.

        Args:
            batch: At least one answer. Answers continue from the tokens that they have.
            steps: Tokens to add to each answer; None: to the end.
            on_token: See `OnToken`.
            on_step: Called with the batch's size and the seconds of each decoding step.
        """
        with torch.inference_mode():
            self._decode(batch, steps, on_token, on_step)

    def _decode(
        self,
        batch: Sequence[Generation],
        steps: int | None,
        on_token: OnToken | None,
        on_step: Callable[[int, float], None] | None,
    ) -> None:
        began_s = time.monotonic()
        rows: list[Generation | None] = list(batch)
        logits, cache, mask = self._prefill([row.prompt + row.tokens for row in batch])
        self.work.batches += 1
        for step in itertools.count(1):
            started = time.monotonic()
            chosen = self._choose(rows, logits)
            for place, token in enumerate(chosen.tolist()):
                row = rows[place]
                if row is None:
                    continue
                if not row.cancelled:
                    self._take(row, token, on_token)
                if row.over:
                    rows[place] = None
            alive = [place for place, row in enumerate(rows) if row is not None]
            self.work.steps += 1
            self.work.computed += len(rows)
            if not alive or step == steps:
                break
            if self.leave and len(alive) <= (1 - _LEAVE) * len(rows):
                kept = torch.tensor(alive, device=self.device)
                cache.batch_select_indices(kept)
                mask, chosen = mask[kept], chosen[kept]
                rows = [rows[place] for place in alive]
            mask = torch.cat((mask, mask.new_ones(len(rows), 1)), dim=1)
            logits = self.model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                # The position of a token does not count padding.
                position_ids=mask.sum(dim=1, keepdim=True) - 1,
                use_cache=True,
                **{self._cache_argument: cache},
            ).logits[:, -1]
            if on_step is not None:
                on_step(len(rows), time.monotonic() - started)
        self.work.seconds += time.monotonic() - began_s

    def _prefill(self, contents: Sequence[list[int]]) -> tuple[Any, Any, Any]:
        """Return the last logits, (batch, vocabulary); the cache; the mask, (batch, longest)."""
        longest = max(len(content) for content in contents)
        ids = torch.zeros(len(contents), longest, dtype=torch.long)
        mask = torch.zeros(len(contents), longest, dtype=torch.long)
        for row, content in enumerate(contents):
            ids[row, longest - len(content) :] = torch.tensor(content)
            mask[row, longest - len(content) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        cache = DynamicCache()
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_argument: cache},
        ).logits[:, -1]
        self.work.prefilled += ids.numel()
        return logits, cache, mask

    def _choose(self, rows: Sequence[Generation | None], logits: Any) -> Any:
        """Choose the next token of each row, (batch,)."""
        for place, row in enumerate(rows):
            if row is not None and len(row.tokens) < row.min_tokens and row.ends:
                logits[place, list(row.ends)] = float("-inf")
        chosen = logits.argmax(dim=-1)
        for place, row in enumerate(rows):
            if row is not None and row.temperature > 0:
                chosen[place] = self._sample(row, logits[place])
        return chosen

    def _sample(self, row: Generation, logits: Any) -> int:
        if row.generator is None:
            row.generator = torch.Generator(device=self.device)
            if row.seed is None:
                row.generator.seed()
            else:
                row.generator.manual_seed(row.seed)
        chances, tokens = (logits.float() / row.temperature).softmax(dim=-1).sort(descending=True)
        # The nucleus: tokens until their probabilities sum to top_p, including the last one.
        chances[chances.cumsum(dim=-1) - chances >= row.top_p] = 0
        if row.top_p <= 0:
            return int(tokens[0])
        return int(tokens[torch.multinomial(chances, 1, generator=row.generator)])

    def _take(self, row: Generation, token: int, on_token: OnToken | None) -> None:
        if token in row.ends and len(row.tokens) >= row.min_tokens:
            row.finished = "stop"
            return
        row.tokens.append(token)
        self.work.kept += 1
        if on_token is not None:
            on_token(row, token)
        if row.finished is None and len(row.tokens) >= row.limit:
            row.finished = "length"
