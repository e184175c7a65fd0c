"""One request of the `transformers` engine in progress: its tokens become text, and text pieces.

Created by engine.py. The methods run on the decoder's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lengthwise_worker.engines.transformers.openai_format import (
    DecodingRequest,
    ResponseFormatter,
)

if TYPE_CHECKING:
    from lengthwise_worker.engines.transformers.decoder import Generation


def _decode_stream() -> Any:
    # Imported here: only this engine needs it.
    from tokenizers.decoders import DecodeStream

    return DecodeStream(skip_special_tokens=True)


@dataclass(eq=False, kw_only=True)
class PendingRequest:
    """A request, its generation, and what was sent of its answer.

    `predicted`: tokens. `deliver` gets each piece of a streamed answer, or the one body. `finished`
    gets None at the end, or the error. Both may be called from any thread.
    """

    request: DecodingRequest
    formatter: ResponseFormatter
    generation: Generation
    predicted: float
    deliver: Callable[[bytes], None]
    finished: Callable[[Exception | None], None]
    _stream: Any = field(default_factory=_decode_stream)
    _text: str = ""
    _sent: int = 0  #: Characters.

    def add_token(self, tokenizer: Any, token: int) -> None:
        """Add a token to the answer. A stop text in the result ends the answer.

        Args:
            tokenizer: Of the package tokenizers.
            token: Its id.
        """
        piece = self._stream.step(tokenizer, token)
        if piece is None:  # in the middle of a character
            return
        self._text += piece
        for stop in self.request.stop:
            # The text that was sent has no stop text in it, but one may begin at its end.
            at = self._text.find(stop, max(0, self._sent - len(stop)))
            if stop and at >= 0:
                self._text = self._text[:at]
                self.generation.finished = "stop"
        self._flush()

    def end(self) -> None:
        """Deliver the rest of the answer, and report the end."""
        generation = self.generation
        counts = len(generation.prompt), len(generation.tokens)
        reason = generation.finished or "stop"
        if self.request.stream:
            self._flush()
            self.deliver(self.formatter.last(reason))
            if self.request.include_usage:
                self.deliver(self.formatter.usage(*counts))
        else:
            self.deliver(self.formatter.whole(self._text, reason, *counts))
        self.finished(None)

    def _flush(self) -> None:
        """Send the text, except an end of it that may be the beginning of a stop text."""
        if not self.request.stream:
            return
        upto = len(self._text)
        if self.generation.finished is None:
            upto -= max((_overlap(self._text, stop) for stop in self.request.stop), default=0)
        if upto > self._sent:
            first = self._sent == 0
            self.deliver(self.formatter.piece(self._text[self._sent : upto], first=first))
            self._sent = upto


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
