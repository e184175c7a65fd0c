"""Learns which of the fields that the worker adds to requests its engine refuses.

A client must never see a refusal of a field that it did not send. So a refused request is sent
again without such a field: at once, in the same attempt. What the engine refuses is then left out.
Pure. Called by openai_http.py.
"""

from __future__ import annotations

import json
import logging

from lengthwise_worker.errors import EngineRefused

log = logging.getLogger(__name__)

#: Statuses of an engine that does not know, or does not take, a field.
_FIELD_REFUSED = frozenset({400, 422})

#: What a refusal may call a field, beside its name.
_WORDS = {
    "stream_options": ("stream_options", "stream options", "streamoptions", "include_usage"),
    "priority": ("priority", "priorities"),
}

#: What the worker does without a field.
_WITHOUT = {
    "stream_options": "the tokens of streamed answers are not counted",
    "priority": "requests that wait inside the engine run in its own order; for vLLM, start it "
    "with --scheduling-policy priority",
}


class AddedFields:
    """What one engine is known to take and to refuse."""

    def __init__(self) -> None:
        self.refused: frozenset[str] = frozenset()
        self._taken: frozenset[str] = frozenset()

    def forget(self) -> None:
        """Forget everything: the engine may be another one now."""
        self.refused = self._taken = frozenset()

    def named_in(self, error: EngineRefused, added: frozenset[str]) -> frozenset[str]:
        """Return which of the added fields a refusal names, in whatever words."""
        if error.status not in _FIELD_REFUSED:
            return frozenset()
        text = f"{error.message} {json.dumps(error.body)}".lower()
        return frozenset(
            name for name in added if any(word in text for word in _WORDS.get(name, (name,)))
        )

    def guesses(self, error: EngineRefused, added: frozenset[str]) -> list[frozenset[str]]:
        """Return what to leave out, one after another, after a refusal that names no field.

        Nothing that the engine has taken before is left out, so that a request that is itself at
        fault is sent once.
        """
        unproven = added - self._taken
        if error.status not in _FIELD_REFUSED or not unproven:
            return []
        alone = [frozenset({name}) for name in sorted(unproven, reverse=True)]
        return alone if len(alone) == 1 else [*alone, unproven]

    def succeeded(self, *, added: frozenset[str], without: frozenset[str]) -> None:
        """Note that the engine took a request with `added`, and not the same with `without`."""
        self._taken |= added
        for name in sorted(without - self.refused):
            log.warning(
                "the engine refuses a field that the worker adds, so it is left out",
                extra={"field": name, "effect": _WITHOUT.get(name, "none")},
            )
        self.refused |= without
