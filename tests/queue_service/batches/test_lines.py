"""The lines of a file, cut out of its blocks: the same however the file is cut into blocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_queue.batches.lines import BadLine, InputLine, cut, parse
from lengthwise_store.batches.batch import START, Place

#: Blank and other lines of up to six bytes; `MAX` is the longest line.
CONTENT = st.lists(st.sampled_from([b"\n", b" ", b"\r", b"a", b"bb", b'{"c": 1}', b"\n\n"])).map(
    b"".join
)
MAX = 9


async def read(blocks: list[bytes], start: Place = START) -> list[InputLine]:
    async def behind() -> AsyncIterator[bytes]:
        for block in blocks[start.block :]:
            yield block

    return [line async for line in cut(behind(), start, max_bytes=MAX)]


def want(content: bytes) -> list[tuple[int, bytes | None]]:
    lines = [(n, line) for n, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    last = content.count(b"\n") + 1
    sizes = {n: len(line) + (n != last) for n, line in lines}
    return [(n, line if sizes[n] <= MAX else None) for n, line in lines]


@given(content=CONTENT, sizes=st.lists(st.integers(1, 7)))
def test_lines_are_the_same_in_any_blocks_and_from_any_place(
    content: bytes, sizes: list[int]
) -> None:
    blocks, rest = [], content
    for size in sizes:
        blocks.append(rest[:size])
        rest = rest[size:]
    blocks = [block for block in [*blocks, rest] if block]
    lines = asyncio.run(read(blocks))
    found = [(x.place.line, None if x.raw is None else x.raw.rstrip(b"\n")) for x in lines]
    assert found == want(content)
    for at, line in enumerate(lines):
        assert asyncio.run(read(blocks, line.place)) == lines[at:]
        assert asyncio.run(read(blocks, line.end)) == lines[at + 1 :]


@given(raw=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_request_or_a_bad_line(raw: bytes) -> None:
    line, problem = InputLine(START, START, raw), "none"
    try:
        parse(line, "/v1/completions", 100)
    except BadLine as exc:
        problem = exc.message
    assert problem
    assert " at line " not in problem


@pytest.mark.slow
def test_a_hundred_million_blank_lines_do_not_hold_up_other_requests() -> None:
    # They are counted by the block. One by one, 150 MB of them took minutes of the event loop.
    async def body() -> list[InputLine]:
        async def blocks() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"\n" * 2**20
            yield b"x\n"

        return [line async for line in cut(blocks(), START, max_bytes=MAX)]

    [line] = asyncio.run(body())
    assert line.place.line == 100 * 2**20 + 1
