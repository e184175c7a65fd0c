"""Queries to a Prometheus, here a server that answers as one that is still starting."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from lengthwise_lab.dashboards.queries import Prometheus


class Starting(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b"Service Unavailable")

    def log_message(self, *_: object) -> None:
        pass


def test_a_prometheus_that_starts_is_an_http_error_and_not_bad_json() -> None:
    # A test that waited for it caught HTTP errors, and failed now and then of a JSONDecodeError.
    with HTTPServer(("127.0.0.1", 0), Starting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        prometheus = Prometheus(f"http://127.0.0.1:{server.server_port}")
        try:
            with pytest.raises(httpx.HTTPError):
                prometheus.now("up")
        finally:
            prometheus.close()
            server.shutdown()
            thread.join()
