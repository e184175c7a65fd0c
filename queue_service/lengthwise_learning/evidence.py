"""What is kept of a job for learning: its submission, and its length once it has finished.

The queue service stores a packed `Submission` with the job. When the job finishes, the store puts
`evidence_head` of the real length before these bytes, in one step with the end of the job. So the
store never reads a submission, and an acknowledged answer is never lost.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from lengthwise_learning.view import View

_NUMBERS = struct.Struct("<Bfff")  # format; log tokens: static, learned, young
_FORMAT = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Submission:
    """What is known of a job when it is submitted, and what was predicted for it.

    Attributes:
        view: The predictor's view of the request.
        llm: Which LLM will answer: name, revision and adapter, or a hash of them. Two jobs with
            different tags are jobs of different LLMs.
        application: A hash of the system prompt; without one, of the tenant and the first words of
            the template. "": unknown.
        request: A hash of the tenant and the whole request, to find exact repeats. "": never a
            repeat.
        tenant: A hash of the tenant, so that `explain` shows a caller its own jobs only.
        static: The predictor's log p50, log tokens, before any calibration.
        learned: The learned log p50; None: nothing was learned yet.
        young: The log p50 learned from the newest jobs only; None: likewise.
    """

    view: View
    llm: str
    application: str = ""
    request: str = ""
    tenant: str = ""
    static: float
    learned: float | None = None
    young: float | None = None

    def pack(self) -> bytes:
        """Return the submission as bytes, about 0.5 to 1.2 kB.

        Raises:
            ValueError: A name is longer than 255 bytes in UTF-8.
        """
        names = [name.encode() for name in (self.llm, self.application, self.request, self.tenant)]
        if any(len(name) > 255 for name in names):
            raise ValueError("a name of a submission is over 255 bytes; give its hash")
        return b"".join(
            (
                _NUMBERS.pack(_FORMAT, self.static, _or_nan(self.learned), _or_nan(self.young)),
                *(bytes([len(name)]) + name for name in names),
                self.view.pack(),
            )
        )

    @classmethod
    def unpack(cls, packed: bytes) -> Submission:
        """Read what `pack` returned.

        Raises:
            ValueError: These are other bytes.
        """
        try:
            kind, static, learned, young = _NUMBERS.unpack_from(packed)
            if kind != _FORMAT or not math.isfinite(static):
                raise ValueError(f"bytes of format {kind} are no submission")
            at, names = _NUMBERS.size, []
            for _ in range(4):
                end = at + 1 + packed[at]
                names.append(packed[at + 1 : end].decode())
                at = end
        except (struct.error, IndexError) as exc:
            raise ValueError(f"{len(packed)} bytes are no submission") from exc
        return cls(
            view=View.unpack(packed[at:]),
            llm=names[0],
            application=names[1],
            request=names[2],
            tenant=names[3],
            static=static,
            learned=None if math.isnan(learned) else learned,
            young=None if math.isnan(young) else young,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """A finished job.

    Attributes:
        submission: What was known and predicted before it ended.
        tokens: Length of its answer, tokens, >= 0.
        censored: Whether the answer was cut at its cap: the real length is at least `tokens`.
    """

    submission: Submission
    tokens: int
    censored: bool = False

    def pack(self) -> bytes:
        """Return the evidence as bytes."""
        return evidence_head(self.tokens, censored=self.censored) + self.submission.pack()

    @classmethod
    def unpack(cls, packed: bytes) -> Evidence:
        """Read what `pack` returned, or what the store made of head and submission.

        Raises:
            ValueError: These are other bytes.
        """
        tokens, cut, rest = packed.split(b" ", 2) if packed.count(b" ") >= 2 else (b"", b"", b"")
        if not tokens.isdigit() or cut not in (b"0", b"1"):
            raise ValueError(f"{len(packed)} bytes are no evidence")
        return cls(submission=Submission.unpack(rest), tokens=int(tokens), censored=cut == b"1")


def evidence_head(tokens: int, *, censored: bool) -> bytes:
    """Return what stands before a packed submission: `<tokens> <0 or 1> `, in ASCII.

    Lua can write it: `tokens .. " " .. cut .. " " .. submission`.
    """
    return b"%d %d " % (tokens, censored)


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number
