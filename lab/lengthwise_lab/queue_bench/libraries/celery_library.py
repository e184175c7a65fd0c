"""Celery, https://docs.celeryq.dev, on its Redis transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from lengthwise_lab.queue_bench.library import Semantics
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced, produce_in_threads

SEMANTICS = Semantics(
    settings="threads, acks_late, prefetch x 4 (its default), no gossip or mingle",
    acknowledged="after the job (acks_late)",
    after_a_kill="runs again after the visibility timeout, 1 h; BRPOP and 'unacked' are two steps",
    retries="where the task asks for them",
    deduplication="none",
    result="off here (ignore_result)",
    order="first in, first out",
)


def _task(url: str, job: Callable[[float], None]) -> tuple[Celery, Any]:
    app = Celery("bench", broker=url)
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )

    def noop(sent_s: float, payload: str) -> None:
        del payload
        job(sent_s)

    return app, app.task(noop, name="noop")


def produce(url: str, plan: LoadPlan) -> Produced:
    """Submit jobs through its task."""
    app, task = _task(url, lambda _: None)
    try:
        return produce_in_threads(plan, task.delay)
    finally:
        app.close()


def work(url: str, probe: Probe) -> None:
    """Run a worker process."""
    app, _ = _task(url, probe.job)
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]
    app.worker_main(["worker", "--pool=threads", f"--concurrency={probe.concurrency}", *quiet])
