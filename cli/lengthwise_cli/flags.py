"""Parse and check the values of flags that Typer cannot check."""

from __future__ import annotations

from collections.abc import Sequence

from lengthwise_cli.errors import BadUsage


def whole_numbers(flag: str, text: str, *, may_be_empty: bool = False) -> list[int]:
    """Parse whole numbers >= 1, separated by commas.

    Raises:
        BadUsage: A part is not such a number, or there is none although there must be.
    """
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as exc:
        raise BadUsage(f"{flag} takes whole numbers with commas; got {text!r}") from exc
    if any(number < 1 for number in numbers) or not (numbers or may_be_empty):
        raise BadUsage(f"{flag} takes numbers from 1 up; got {text!r}")
    return numbers


def one_of(flag: str, value: str, known: Sequence[str]) -> None:
    """Check a flag whose values are defined in a module that is imported later.

    Raises:
        BadUsage: `value` is not one of `known`.
    """
    if value not in known:
        raise BadUsage(f"{flag} is {value!r}; it must be one of {', '.join(known)}")
