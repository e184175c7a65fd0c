"""How server-sent events are written."""

from __future__ import annotations

from lengthwise_queue.web.server_sent_events import event


def test_an_event_with_line_breaks_stays_one_event() -> None:
    assert event(b'{\n"a": 1}', entry_id="1-0", name="chunk") == (
        b'id: 1-0\nevent: chunk\ndata: {\ndata: "a": 1}\n\n'
    )
