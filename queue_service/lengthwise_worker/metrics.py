"""The metrics of a worker, and the server of /metrics and /healthz.

The server has a thread of its own, so that /healthz can report that the event loop hangs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from lengthwise_store.jobs import OutcomeKind

log = logging.getLogger(__name__)

_TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

#: The event loop counts as hung when it has not turned for this long, s.
HUNG_AFTER_S = 30.0


class Tally:
    """A counter that only the event loop changes, for every job.

    A `Counter` takes a lock and checks its labels each time: three of them were a tenth of what a
    job costs the worker (docs/research/experiments.md, "a fifth off every job").
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.value = 0

    def inc(self, by: int = 1) -> None:
        """Add `by`."""
        self.value += by


class Tallies(Collector):
    """Exports tallies that differ in one label as one counter."""

    def __init__(self, name: str, about: str, label: str, tallies: Mapping[str, Tally]) -> None:
        """`tallies`: by the value of `label`."""
        self._name, self._about, self._label, self._tallies = name, about, label, tallies

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return all tallies of this moment."""
        family = CounterMetricFamily(self._name, self._about, labels=[self._label])
        for value, tally in self._tallies.items():
            family.add_metric([value], tally.value)
        yield family


class Metrics:
    """The metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix = "lengthwise_worker"
        self.inflight = Gauge(
            f"{prefix}_inflight", "Jobs claimed and not finished", registry=self.registry
        )
        self.slots = Gauge(f"{prefix}_slots", "Most jobs that run at once", registry=self.registry)
        self.engine_healthy = Gauge(
            f"{prefix}_engine_healthy", "1: the engine gets work", registry=self.registry
        )
        self._engine_state = Gauge(
            f"{prefix}_engine_state",
            "1: the state of the engine (starting, ready, busy, away, failing), and its problem",
            ["state", "problem"],
            registry=self.registry,
        )
        self.engine_failures = Counter(
            f"{prefix}_engine_failures",
            "Calls of the engine that failed for no fault of the request",
            registry=self.registry,
        )
        self.claims = Counter(f"{prefix}_claims", "Jobs claimed", registry=self.registry)
        self.outcomes = {kind: Tally() for kind in OutcomeKind}
        by_outcome = {kind.value: tally for kind, tally in self.outcomes.items()}
        self.registry.register(
            Tallies(f"{prefix}_finishes", "Claims ended, by outcome", "outcome", by_outcome)
        )
        self.leases_lost = Counter(
            f"{prefix}_leases_lost",
            "Leases that expired or were ended by another process",
            registry=self.registry,
        )
        self.ttft = Histogram(
            f"{prefix}_engine_ttft_seconds",
            "From the call of the engine to its first piece, streamed answers",
            buckets=_TTFT_BUCKETS_S,
            registry=self.registry,
        )
        self.prompt_tokens, self.output_tokens = Tally(), Tally()
        by_kind = {"prompt": self.prompt_tokens, "output": self.output_tokens}
        self.registry.register(
            Tallies(f"{prefix}_tokens", "Tokens by the engine's usage", "kind", by_kind)
        )
        self.watchdog_reconnects = Counter(
            f"{prefix}_watchdog_reconnects",
            "Reconnects because jobs waited, slots were free and nothing was claimed",
            registry=self.registry,
        )
        self.unconfirmed = Counter(
            f"{prefix}_unconfirmed_finishes",
            "Ended jobs without the confirmation that the durability asks for",
            registry=self.registry,
        )
        self.turned_s = time.monotonic()  #: When the event loop last turned, monotonic seconds.

    def show_engine(self, state: str, problem: str | None) -> None:
        """Export the state of the engine."""
        self.engine_healthy.set(state in ("ready", "busy"))
        self._engine_state.clear()
        self._engine_state.labels(state, problem or "").set(1)


class MetricsServer:
    """Serves `GET /metrics` and `GET /healthz` until `close`.

    /healthz is 200 while the event loop turns, even when the engine or Redis is down: a restart of
    the worker would fix neither.
    """

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        """Listen at once.

        Raises:
            OSError: The port is taken.
        """
        self._http = ThreadingHTTPServer((host, port), _handler(metrics))
        self._http.daemon_threads = True
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _handler(metrics: Metrics) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Serves the two paths; any other path is a 404."""

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
            elif self.path == "/healthz":
                hung = time.monotonic() - metrics.turned_s > HUNG_AFTER_S
                status = HTTPStatus.SERVICE_UNAVAILABLE if hung else HTTPStatus.OK
                self._answer(status, "text/plain", b"hung\n" if hung else b"ok\n")
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics or /healthz\n")

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            log.debug("metrics request", extra={"line": format % args})

    return Handler
