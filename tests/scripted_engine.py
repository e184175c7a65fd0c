"""An engine that plays back bytes over real HTTP: any answer, cut anywhere, ended in any way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Ending(StrEnum):
    """How the connection ends behind the last piece."""

    CLEAN = "clean"  #: The response ends as HTTP has it.
    CLOSED = "closed"  #: The response has no length; the connection closes.
    CUT = "cut"  #: The connection closes in the middle of the response.
    OPEN = "open"  #: Nothing more comes, and the connection stays open.


@dataclass(frozen=True, kw_only=True)
class Script:
    """One answer: its pieces are written one by one."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    content_type: str | None = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    ending: Ending = Ending.CLEAN


def as_json(body: Any, *, status: int = 200) -> Script:
    """An answer of one JSON body."""
    return Script(
        pieces=[json.dumps(body).encode()], status=status, content_type="application/json"
    )


#: Chooses the answer to a request, by its path and its body.
Plan = Callable[[str, dict[str, Any]], Script]


class ScriptedEngine:
    """Answers each POST by its plan, and lists its models."""

    def __init__(self, plan: Plan | Script, *, models: Sequence[str] = ("m",)) -> None:
        """`plan`: the answer to each POST. `models`: what /v1/models lists."""
        self.plan: Plan | Script = plan
        self.models = list(models)
        self.bodies: list[dict[str, Any]] = []  #: Of the POSTs, in order.
        self.heads: list[str] = []  #: Likewise; request lines and headers.
        self.url = ""
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[ScriptedEngine]:
        """Listen inside the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request, and return whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length")]
        body = await reader.readexactly(int(lengths[0].split(":")[1]) if lengths else 0)
        if method == "POST":
            fields = json.loads(body)
            self.bodies.append(fields)
            self.heads.append(head)
            script = self.plan if isinstance(self.plan, Script) else self.plan(path, fields)
        elif path == "/v1/models":
            script = as_json({"object": "list", "data": [{"id": name} for name in self.models]})
        else:
            script = Script(content_type=None)
        await self._play(script, writer)
        if script.ending is Ending.OPEN:
            await reader.read()  # until the client closes
        return script.ending is Ending.CLEAN

    async def _play(self, script: Script, writer: asyncio.StreamWriter) -> None:
        framed = script.ending is not Ending.CLOSED
        headers = dict(script.headers)
        if script.content_type is not None:
            headers["Content-Type"] = script.content_type
        headers |= {"Transfer-Encoding": "chunked"} if framed else {"Connection": "close"}
        lines = [f"HTTP/1.1 {script.status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        for piece in filter(None, script.pieces):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if framed else piece)
            await writer.drain()
            await asyncio.sleep(0)
        if script.ending is Ending.CLEAN:
            writer.write(b"0\r\n\r\n")
        if script.ending is not Ending.OPEN:
            await writer.drain()
        if script.ending in (Ending.CLOSED, Ending.CUT):
            writer.close()  # what was written is sent first
            await writer.wait_closed()
