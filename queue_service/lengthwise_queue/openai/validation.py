"""Validates OpenAI bodies with pydantic models, and reports the first fault as OpenAI does. Pure.

A body is refused here only for what the service must read itself: the model, and the place of the
prompt. Everything else is the engine's to judge, and engines differ: vLLM takes a `max_tokens` of
100.0 or "100", llama.cpp one of -1. The models describe those fields for the OpenAPI document, and
`as_integer` and `as_boolean` read the few that matter here as an engine would.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema

from lengthwise_queue.errors import BadRequest
from lengthwise_queue.web.json_schema import in_words, inlined
from lengthwise_queue.web.request_body import kind_of

#: Longest model name, characters; the same limit as that of `PredictRequest.model`.
MAX_MODEL_NAME = 256

#: Longest `max_tokens` that is reckoned with: engines keep token counts in 32 bits.
MAX_TOKENS = 2**31 - 1


def _documented(kind: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": kind, **more}, {"type": "null"}]})


# Types of fields that the engine checks.
Boolean = Annotated[Any, _documented("boolean")]
Integer = Annotated[Any, _documented("integer")]
Number = Annotated[Any, _documented("number")]
String = Annotated[Any, _documented("string")]
Object = Annotated[Any, _documented("object")]
Array = Annotated[Any, _documented("array", items={})]

_INTEGER, _BOOLEAN = TypeAdapter(int), TypeAdapter(bool)


def as_integer(value: Any) -> int | None:
    """Read an integer as vLLM does: also 100.0 and "100". None: it is none."""
    try:
        return _INTEGER.validate_python(value)
    except ValidationError:
        return None


def as_boolean(value: Any) -> bool:
    """Read a boolean as vLLM does: also 1 and "true". False: it is none, or absent."""
    try:
        return _BOOLEAN.validate_python(value)
    except ValidationError:
        return False


class OpenAIBody(BaseModel):
    """Base of the models: unknown fields are allowed, and nothing is converted.

    A field that is null counts as absent, as at OpenAI, so every optional field takes null.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    #: Fields of which an error names the inner part, such as `messages[0].role`. Tags of union
    #: members in them begin with "#".
    nested_params: ClassVar[frozenset[str]] = frozenset()


B = TypeVar("B", bound=OpenAIBody)


def validate(model: type[B], body: dict[str, Any]) -> B:
    """Validate a body.

    Raises:
        BadRequest: A field is missing or wrong; `param` names the first such field.
    """
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        raise _bad_request(model, exc, body) from None


def _bad_request(model: type[OpenAIBody], exc: ValidationError, body: dict[str, Any]) -> BadRequest:
    errors = exc.errors(include_url=False, include_input=False, include_context=False)
    loc = errors[0]["loc"]
    tag = next((i for i, step in enumerate(loc) if str(step).startswith("#")), len(loc))
    # Each member of a union reports its own fault. The deepest is that of the intended member.
    alike = [error["loc"] for error in errors if error["loc"][:tag] == loc[:tag]]
    loc = max(alike, key=len)
    if str(loc[0]) not in model.nested_params:
        loc = loc[:1]
    param = str(loc[0])
    value: Any = body.get(param)
    schema: Any = _schema(model)["properties"][param]
    for step in loc[1:]:
        if isinstance(step, int):
            param, value, schema = f"{param}[{step}]", value[step], _member(schema, "items")
        elif not step.startswith("#"):
            param, value = f"{param}.{step}", value.get(step)
            schema = _member(schema, "properties")[step]
    # Null in place of a required field is the same as its absence; null in an array is not.
    if value is None and isinstance(loc[-1], str):
        hint = f" {schema['description']}." if "description" in schema else ""
        return missing(param, f"{in_words(schema)}.{hint}")
    return wrong(param, in_words(schema), value)


def missing(param: str, want: str) -> BadRequest:
    """Make the error for a required field that the body lacks."""
    return BadRequest(
        f"`{param}` is missing: send {want}", param=param, code="missing_required_parameter"
    )


@functools.cache
def _schema(model: type[OpenAIBody]) -> dict[str, Any]:
    return inlined(model.model_json_schema())


def _member(schema: dict[str, Any], key: str) -> Any:
    """Return the `items` or `properties` of a schema, or of the union member that has them."""
    return next(s[key] for s in schema.get("anyOf", [schema]) if key in s)


def wrong(param: str, want: str, value: object) -> BadRequest:
    """Make the error for a field whose value is not `want`."""
    return BadRequest(
        f"`{param}` must be {want}, and is {kind_of(value)}.", param=param, code="invalid_value"
    )


def string_at(param: str, value: dict[str, Any], name: str) -> str:
    """Return a string field of an object inside the body.

    Raises:
        BadRequest: The field is missing, or not a string.
    """
    found = value.get(name)
    if not isinstance(found, str):
        raise wrong(f"{param}.{name}", "a string", found)
    return found
