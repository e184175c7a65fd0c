"""Refuse a prompt that is certainly too long for the model, before it is queued.

Both ways of measuring give a lower bound, so no request that the engine would answer is refused
here. The engine decides all close cases, and those where its template adds tokens; the client gets
its 400. Called by `submit`.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from tokenizers import Tokenizer

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.admission.parsed_request import ParsedRequest
from lengthwise_queue.errors import BadRequest

log = logging.getLogger(__name__)

#: No token of a known LLM has more bytes than this. The longest entries of BPE vocabularies
#: (those of GPT-4, GPT-4o, Llama 3 and Qwen) are runs of 128 spaces or dashes; SentencePiece caps
#: a piece at 16 characters, 64 bytes, and Gemma's longest are runs of 31. Twice the longest known.
MAX_BYTES_PER_TOKEN = 256

#: Prompts of up to this many bytes are counted on the event loop: a thread would cost more.
INLINE_BYTES = 2_048


class PromptLength:
    """Measures prompts. Each tokenizer file is read once."""

    def __init__(self) -> None:
        self._tokenizers: dict[str, Tokenizer | None] = {}

    async def check(self, settings: QueueSettings, parsed: ParsedRequest) -> None:
        """Refuse a prompt that leaves no room for one token of an answer.

        Raises:
            BadRequest: A prompt has at least `settings.max_model_len` tokens.
        """
        limit = settings.max_model_len
        if limit is None:
            return
        for prompt in parsed.prompts:
            tokens, exact = await self._at_least(prompt, limit, settings.tokenizer)
            if tokens >= limit:
                raise BadRequest(
                    f"The prompt has {'' if exact else 'at least '}{tokens} tokens, and "
                    f"{parsed.model} takes {limit}, answer included. Shorten "
                    f"`{parsed.prompt_param}`.",
                    param=parsed.prompt_param,
                    code="context_length_exceeded",
                )

    async def load(self, path: str) -> None:
        """Read a tokenizer file now.

        Raises:
            ValueError: There is no such file on this host, or it is not a tokenizer.json.
        """
        if not await asyncio.to_thread(Path(path).is_file):
            raise ValueError(f"there is no file {path} on this host")
        try:
            self._tokenizers[path] = await asyncio.to_thread(Tokenizer.from_file, path)
        except Exception as exc:  # tokenizers raises nothing narrower
            raise ValueError(f"{path} is not a tokenizer.json: {exc}") from exc

    async def _at_least(
        self, prompt: list[str] | int, limit: int, path: str | None
    ) -> tuple[int, bool]:
        """Return a lower bound of a prompt's length, tokens, and whether it is exact."""
        if isinstance(prompt, int):
            return prompt, True
        size = sum(len(text.encode()) for text in prompt)
        # A token has at least one byte of text, so this prompt cannot be too long. (Normalizers
        # that expand characters break the rule; then the engine decides.)
        if size < limit:
            return 0, False
        tokenizer = await self._tokenizer(path)
        if tokenizer is None:
            return size // MAX_BYTES_PER_TOKEN, False
        if size <= INLINE_BYTES:
            return count(tokenizer, prompt), True
        return await asyncio.to_thread(count, tokenizer, prompt), True

    async def _tokenizer(self, path: str | None) -> Tokenizer | None:
        if path is None:
            return None
        if path not in self._tokenizers:
            try:
                await self.load(path)
            except ValueError as exc:
                # Another replica accepted the setting. Serve without it; the engine counts anyway.
                log.warning("tokenizer not loaded", extra={"path": path, "reason": str(exc)})
                self._tokenizers[path] = None
        return self._tokenizers[path]


def count(tokenizer: Tokenizer, texts: list[str]) -> int:
    """Count the tokens of texts, each tokenized alone and without special tokens."""
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return sum(len(e) for e in encoded)
