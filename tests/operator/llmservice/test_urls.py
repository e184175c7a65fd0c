"""Which URLs a user of one namespace may aim the installation's pods at."""

from __future__ import annotations

from typing import Any

import pytest

from lengthwise_operator.llmservice.urls import url_problem


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1",
        "http://vllm:8000",
        "http://vllm.team:8000/v1",
        "http://vllm.team.svc",
        "http://vllm.team.svc.cluster.local:80/",
        "http://93.184.215.14:8000",
        "http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/v1",
    ],
)
def test_public_addresses_and_services_of_the_namespace_are_allowed(url: str) -> None:
    assert url_problem(url, "team") == ""


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://127.0.0.1:6379",
        "http://localhost:8000",
        "http://[::1]/",
        "http://0.0.0.0/",
        "http://10.96.0.1:443",
        "http://192.168.1.1/",
        "http://[::ffff:169.254.169.254]/",
        "http://2130706433/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://vault.prod",
        "http://vault.prod.svc:8200",
        "http://VAULT.prod.svc.cluster.local./",
        "http://10-0-0-1.prod.pod.cluster.local",
        "http://kubernetes.default.svc",
        "http://metadata.google.internal/",
        "http://printer.local/",
        "http://user:password@api.example.com/",
        "ftp://api.example.com/",
        "http://",
        "http://[broken",
        "http://host:port/",
    ],
)
def test_internal_addresses_and_other_namespaces_are_refused(url: str) -> None:
    assert url_problem(url, "team") != ""


@pytest.mark.parametrize(
    ("url", "want"),
    [
        ("http://router.gateway.svc", True),
        ("http://router.gateway.svc/v1", True),
        ("http://router.gateway.svc.evil.example.com", True),  # a public name of its own
        ("http://router.gateway.svc:9000", False),
        ("http://router.gateway.svc@10.0.0.1/", False),
        ("http://other.gateway.svc", False),
    ],
)
def test_an_admin_allows_what_begins_with_a_url(url: str, want: bool) -> None:
    assert (url_problem(url, "team", ["http://router.gateway.svc/"]) == "") == want


def test_a_refused_url_is_a_condition_and_nothing_is_created(plan: Any) -> None:
    found = plan(predictor={"url": "http://vault.prod:8200"})
    ready = found.status["conditions"][0]
    assert (ready["reason"], list(found.apply)) == ("InvalidSpec", [])
    assert "predictor.url" in ready["message"]
    assert "operator.allowedUrls" in ready["message"]
