"""Decide whether a service may aim the installation's pods at a URL. Pure.

`engine.url` and `predictor.url` are written by a user of one namespace and called by pods that
belong to the installation. Without a limit such a user could read what only those pods reach: the
cloud's metadata service, or a Service of another namespace (server-side request forgery).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

#: Endings of names that only the cluster's own DNS answers.
_CLUSTER = ("svc", "pod", "local", "internal", "localhost", "localdomain")


def url_problem(url: str, namespace: str, allowed: Sequence[str] = ()) -> str:
    """Return why pods of `namespace` must not be aimed at `url`; "": they may be.

    Args:
        url: An http or https URL.
        namespace: Of the LLMService.
        allowed: Beginnings of URLs that an admin allows, whatever they lead to.
    """
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return f"{_shown(url)} is no URL"
    if parts.username is not None or parts.password is not None:
        return "a URL must not hold a password: use a Secret"
    if parts.scheme not in ("http", "https") or not host:
        return f"{_shown(url)} is no http or https URL"
    if any(_starts_with(url, prefix) for prefix in allowed):
        return ""
    wrong = _wrong_host(host, namespace)
    return f"{wrong}; an admin can allow it in operator.allowedUrls of the chart" if wrong else ""


def _wrong_host(host: str, namespace: str) -> str:
    labels = host.lower().split(".")
    if ":" in host or re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", labels[-1]):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return f"{host} is an address in a form that programs read differently"
        return "" if address.is_global else f"{host} is no public address"
    if len(labels) == 1:  # a Service of the same namespace
        return "" if labels[0] not in _CLUSTER else f"{host} is the pod itself"
    if len(labels) == 2 and labels[1] not in _CLUSTER:
        if labels[1] == namespace:
            return ""
        return f"{host} may be the Service {labels[0]} of the namespace {labels[1]}"
    if labels[2:] in (["svc"], ["svc", "cluster", "local"]):
        return "" if labels[1] == namespace else f"{host} is in the namespace {labels[1]}"
    return f"{host} is an internal name" if labels[-1] in _CLUSTER else ""


def _starts_with(url: str, prefix: str) -> bool:
    """Whether a URL begins with a prefix that ends at a boundary: of the host, or of a path."""
    base = prefix.rstrip("/")
    return url == base or url.startswith((f"{base}/", f"{base}?"))


def _shown(url: str) -> str:
    return repr(url if len(url) <= 80 else f"{url[:77]}...")
