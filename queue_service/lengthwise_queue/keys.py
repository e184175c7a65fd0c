"""What everything is called in Redis. A queue's keys share a hash tag: one Cluster slot."""

from __future__ import annotations

#: Hash: queue name -> its settings, JSON.
QUEUES = "lw:queues"


class QueueKeys:
    """The keys of one queue; everything that Redis holds for it starts with `prefix`."""

    def __init__(self, queue: str) -> None:
        """Name the keys of the queue called `queue`."""
        self.prefix = prefix = f"lw:{{{queue}}}:"
        self.ready = prefix + "ready"
        self.accepted = prefix + "accepted"
        self.leases = prefix + "leases"
        self.delayed = prefix + "delayed"
        self.deadlines = prefix + "deadlines"
        self.finished = prefix + "finished"
        self.dead = prefix + "dead"
        self.wake = prefix + "wake"
        self.meta = prefix + "meta"
        self.lengths = prefix + "lengths"
        self.workers = prefix + "workers"
        self.worker_info = prefix + "worker_info"
        self.control = prefix + "control"
        self.guard = prefix + "tick"

    def job(self, job_id: str) -> str:
        """Hash: the record."""
        return f"{self.prefix}job:{job_id}"

    def body(self, job_id: str) -> str:
        """String: the request body."""
        return f"{self.prefix}in:{job_id}"

    def out(self, job_id: str) -> str:
        """Stream: the output."""
        return f"{self.prefix}out:{job_id}"

    def idem(self, key: str) -> str:
        """String: the job that owns an idempotency key."""
        return f"{self.prefix}idem:{key}"
