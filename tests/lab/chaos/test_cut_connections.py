"""A connection that is cut before its first use, which uvloop tells in a way of its own."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from lengthwise_lab.chaos.clients.transport import SaysCut


async def ask(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    # A mock: between connect and the first look at the socket lie microseconds.
    async def broken(_self: object, _request: httpx.Request) -> httpx.Response:
        raise AttributeError(message)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", broken)
    async with httpx.AsyncClient(transport=SaysCut()) as http:
        await http.get("http://127.0.0.1:9/")


def test_a_connection_without_a_socket_is_a_peer_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(httpx.ConnectError, match="cut before"):
        asyncio.run(ask(monkeypatch, "'NoneType' object has no attribute 'getpeername'"))


def test_another_attribute_error_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError, match="no attribute 'foo'"):
        asyncio.run(ask(monkeypatch, "'NoneType' object has no attribute 'foo'"))
