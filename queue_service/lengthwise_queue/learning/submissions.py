"""Make what is learned from a request: the predictor's view of it, and hashes that name it. Pure.

All hashes are keyed by a secret of the installation, and all but the LLM's are of one tenant. So
who reads the evidence cannot test a guess, and no tenant can learn another's prompts by sending
them itself.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

from pydantic_core import to_json

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_learning.evidence import Submission
from lengthwise_learning.view import View

#: The first words of a prompt that name its template, where there is no system prompt. With more,
#: a template whose first blank comes early is many applications.
_TEMPLATE_WORDS = 4

#: The part of a prompt in which they are looked for, characters.
_TEMPLATE_CHARS = 200

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class RequestNames:
    """Keyed hashes that name a request, its application and its tenant."""

    application: str
    request: str
    tenant: str


class Names:
    """Makes keyed hashes."""

    def __init__(self, key: bytes) -> None:
        """`key`: the secret, at least 16 bytes."""
        self._key = hashlib.sha256(b"lengthwise names\0" + key).digest()
        #: Names the way in which words are hashed; evidence of another way is of no use.
        self.words = self.of("words")

    def of(self, *parts: str | bytes) -> str:
        """Return the hash of these parts, 16 digits."""
        made = hashlib.blake2b(key=self._key, digest_size=8)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            made.update(b"%d:" % len(data))
            made.update(data)
        return made.hexdigest()

    def request(
        self, tenant: str, *, instructions: str, text: str, asked: object, facts: object
    ) -> RequestNames:
        """Name a request.

        Args:
            tenant: The tenant's name.
            instructions: The system prompt; "": none. It names the application.
            text: What the predictor reads. Without a system prompt its first words name the
                application.
            asked: All that is asked: the messages or prompts, as JSON values.
            facts: The facts beside it, as JSON values.
        """
        if instructions:
            application = self.of("system", tenant, instructions)
        else:
            words = _WORD.findall(text[:_TEMPLATE_CHARS])
            application = self.of("template", tenant, " ".join(words[:_TEMPLATE_WORDS]))
        body = to_json([asked, facts], inf_nan_mode="strings", fallback=str)
        return RequestNames(
            application=application,
            request=self.of("request", tenant, body),
            tenant=self.of("tenant", tenant),
        )

    def llm(self, queue: str, settings: QueueSettings, adapter: str | None) -> str:
        """Name the LLM that answers: that of the queue, with its revision and adapter."""
        return self.of("llm", queue, settings.llm or "", adapter or "")


def submission_of(
    prediction: Prediction, names: RequestNames, llm: str, word_key: bytes | None
) -> Submission | None:
    """Make what is learned from a request; None: its prediction carries no readable view.

    Args:
        prediction: The predictor's.
        names: Of the request.
        llm: The LLM's name.
        word_key: The secret that hashes the words; None: they stay readable.
    """
    if prediction.view is None:
        return None
    try:
        view = View.from_text(prediction.view)
    except ValueError:
        return None
    return Submission(
        view=view if word_key is None else view.keyed(word_key),
        llm=llm,
        application=names.application,
        request=names.request,
        tenant=names.tenant,
        static=math.log(prediction.p50_tokens),
    )
