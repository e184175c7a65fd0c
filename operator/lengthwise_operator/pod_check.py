"""Check the parts of a spec that have the form of a Pod, before they are merged. Pure.

The CRD leaves these parts open, because the fields of a Pod differ between versions of Kubernetes.
The API server refuses an unknown field when the Deployment is applied, and the refusal becomes a
condition. Wrong types would break the merge before that, so they are checked here, against the
types of the official client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kubernetes.client import models

from lengthwise_operator.children.pod_template import MERGE_KEYS, PATCH
from lengthwise_operator.llmservice.fields import QUANTITY
from lengthwise_operator.llmservice.spec import LLMServiceSpec

_SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "datetime": (str,),
}
_NAMES = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false"}
_LIST, _DICT = re.compile(r"List\[(.+)\]"), re.compile(r"Dict\[str, (.+)\]")


def pod_problems(spec: LLMServiceSpec) -> list[str]:
    """Return what is wrong with podTemplate, affinity, envFrom and valueFrom; [] if nothing is."""
    found = [
        *_check(spec.pod_template.spec, "V1PodSpec", "podTemplate.spec"),
        *_check(spec.affinity, "V1Affinity", "affinity"),
        *_check(spec.engine.env_from, "List[V1EnvFromSource]", "engine.envFrom"),
    ]
    for at, variable in enumerate(spec.engine.env):
        path = f"engine.env[{at}].valueFrom"
        found += _check(variable.value_from, "V1EnvVarSource", path)
    return found


def _check(value: Any, type_: str, path: str) -> Iterator[str]:
    """Yield the problems of one value: its path, and what it must be."""
    if value is None or (isinstance(value, Mapping) and value.get(PATCH) == "delete"):
        return
    if of := _LIST.fullmatch(type_):
        yield from _check_list(value, of[1], path)
    elif of := _DICT.fullmatch(type_):
        if not isinstance(value, Mapping):
            yield f"{path} must be an object, and is {_shown(value)}"
            return
        for name, one in value.items():
            if name != PATCH:
                yield from _check(one, of[1], f"{path}.{name}")
            if path.endswith((".limits", ".requests")) and not _is_quantity(one):
                yield f"{path}.{name} must be a quantity such as 500m or 8Gi, and is {_shown(one)}"
    elif type_ in _SCALARS:
        # A quantity may be a number, too.
        quantity = path.rpartition(".")[0].endswith((".limits", ".requests"))
        wanted = (str, int, float) if quantity else _SCALARS[type_]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            yield f"{path} must be {_NAMES.get(type_, 'a string')}, and is {_shown(value)}"
    elif type_ != "object":
        yield from _check_object(value, getattr(models, type_), path)


def _check_object(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{path} must be an object, and is {_shown(value)}"
        return
    types = {model.attribute_map[name]: type_ for name, type_ in model.openapi_types.items()}
    for name, one in value.items():
        if name in types:  # others are left to the API server, which may be newer
            yield from _check(one, types[name], f"{path}.{name}")


def _check_list(value: Any, type_: str, path: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{path} must be a list, and is {_shown(value)}"
        return
    key = MERGE_KEYS.get(path.rpartition(".")[2])
    for at, one in enumerate(value):
        named = isinstance(one, Mapping) and key is not None and one.get(key)
        where = f"{path}[{named}]" if named else f"{path}[{at}]"
        yield from _check(one, type_, where)
        if key is not None and isinstance(one, Mapping) and not one.get(key):
            yield f"{where} must have a {key}, by which it is merged"
        if one is None:
            yield f"{where} must not be empty"


def _is_quantity(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return value is None
    return not isinstance(value, str) or re.fullmatch(QUANTITY, value) is not None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
