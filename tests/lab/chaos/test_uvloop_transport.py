"""A connection that is reset before its first use, for which uvloop has an error of its own."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from lengthwise_lab.chaos.clients.transport import UvloopTransport


async def request(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    # A mock, because between connect and the first use of the socket are only microseconds.
    async def broken(_self: object, _request: httpx.Request) -> httpx.Response:
        raise AttributeError(message)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", broken)
    async with httpx.AsyncClient(transport=UvloopTransport()) as http:
        await http.get("http://127.0.0.1:9/")


def test_a_connection_without_a_socket_is_a_connect_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(httpx.ConnectError, match="reset before"):
        asyncio.run(request(monkeypatch, "'NoneType' object has no attribute 'getpeername'"))


def test_another_attribute_error_is_not_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError, match="no attribute 'foo'"):
        asyncio.run(request(monkeypatch, "'NoneType' object has no attribute 'foo'"))
