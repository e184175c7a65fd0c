"""Read the input file of one batch a few lines at a time. Called by `executor` and `line_jobs`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing

from lengthwise_queue.batches import lines as batch_lines
from lengthwise_queue.batches.lines import InputLine
from lengthwise_store.batches.batch import Place
from lengthwise_store.files.file import FileGone
from lengthwise_store.files.store import FileStore

#: Lines that are read in one step, and their bytes: the part of the input that is in memory.
GROUP_LINES = 32
GROUP_BYTES = 4 * 2**20


class InputGone(Exception):
    """The input file is no longer there."""


class BatchInput:
    """Reads lines from a place on, or single lines. Methods raise `InputGone`.

    Args:
        files: Where the file is.
        tenant: Its owner.
        file_id: The file.
        max_line: The longest line, bytes.
    """

    def __init__(self, files: FileStore, *, tenant: str, file_id: str, max_line: int) -> None:
        self._files, self._tenant, self._file_id = files, tenant, file_id
        self._max_line = max_line
        self._reader: AsyncGenerator[InputLine] | None = None
        self._unread: InputLine | None = None  #: Read, but too large for the last step.

    async def lines(self, start: Place) -> AsyncGenerator[InputLine]:
        """Read all lines from `start` on."""
        file = await self._files.get(self._tenant, self._file_id)
        if file is None:
            raise InputGone
        blocks = self._files.read(file, first=start.block)
        try:
            async for line in batch_lines.cut(blocks, start, max_bytes=self._max_line):
                yield line
        except FileGone:
            raise InputGone from None

    def go_to(self, place: Place) -> None:
        """Let `next` continue from a place."""
        self._reader, self._unread = self.lines(place), None

    async def next(self, count: int) -> list[InputLine]:
        """Read the next lines after those of the last call: at most `count` and `GROUP_BYTES`."""
        lines: list[InputLine] = []
        size = 0
        while self._reader is not None and len(lines) < count and size < GROUP_BYTES:
            line, self._unread = self._unread or await anext(self._reader, None), None
            if line is None:
                break
            size += len(line.raw or b"")
            if lines and size > GROUP_BYTES:
                self._unread = line
                break
            lines.append(line)
        return lines

    async def pick(self, places: Collection[Place]) -> list[InputLine]:
        """Read the lines that begin at these places: the first ones, as many as one step takes."""
        first = sorted(places)[:GROUP_LINES]
        wanted = set(first)
        found: list[InputLine] = []
        size = 0
        async with aclosing(self.lines(first[0])) as lines:
            async for line in lines:
                if line.place in wanted:
                    found.append(line)
                    size += len(line.raw or b"")
                if size >= GROUP_BYTES or line.place >= first[-1]:
                    break
        return found
