"""One request of the `transformers` engine: its tokens become text, and text becomes pieces.

Made by transformers_engine.py; everything here runs on the decoder's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lengthwise_worker.engines.transformers.wire import Ask, Voice

if TYPE_CHECKING:
    from lengthwise_worker.engines.transformers.static_batch import Generation


def _text_stream() -> Any:
    # Imported here: only this engine needs it.
    from tokenizers.decoders import DecodeStream

    return DecodeStream(skip_special_tokens=True)


@dataclass(eq=False, kw_only=True)
class Call:
    """See the module.

    `predicted`: tokens. `deliver` takes each piece of a streamed answer, or the one body; `ended`
    is told the end: None, or what went wrong. Both may be called from any thread.
    """

    ask: Ask
    voice: Voice
    generation: Generation
    predicted: float
    deliver: Callable[[bytes], None]
    ended: Callable[[Exception | None], None]
    _stream: Any = field(default_factory=_text_stream)
    _text: str = ""
    _sent: int = 0  #: Characters.

    def hear(self, words: Any, token: int) -> None:
        """Take a token; a stop text in what it completes is the end.

        Args:
            words: The tokenizer, one of the package tokenizers.
            token: Its id.
        """
        piece = self._stream.step(words, token)
        if piece is None:  # in the middle of a character
            return
        self._text += piece
        for stop in self.ask.stop:
            # What was sent holds no stop text, but one may begin at its end.
            at = self._text.find(stop, max(0, self._sent - len(stop)))
            if stop and at >= 0:
                self._text = self._text[:at]
                self.generation.finished = "stop"
        self._flush()

    def end(self) -> None:
        """Deliver what is left, and the end."""
        generation = self.generation
        counts = len(generation.prompt), len(generation.tokens)
        reason = generation.finished or "stop"
        if self.ask.stream:
            self._flush()
            self.deliver(self.voice.last(reason))
            if self.ask.include_usage:
                self.deliver(self.voice.usage(*counts))
        else:
            self.deliver(self.voice.whole(self._text, reason, *counts))
        self.ended(None)

    def _flush(self) -> None:
        """Send the text, but for what may be the beginning of a stop text."""
        if not self.ask.stream:
            return
        upto = len(self._text)
        if self.generation.finished is None:
            upto -= max((_begun(self._text, stop) for stop in self.ask.stop), default=0)
        if upto > self._sent:
            first = self._sent == 0
            self.deliver(self.voice.piece(self._text[self._sent : upto], first=first))
            self._sent = upto


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
