"""What everything is called in Redis. A queue's keys share a hash tag: one Cluster slot."""

from __future__ import annotations

#: Hash: queue name -> its settings, JSON.
QUEUES = "lw:queues"


class QueueKeys:
    """The keys of one queue; everything that Redis holds for it starts with `prefix`."""

    def __init__(self, queue: str) -> None:
        """Name the keys of the queue called `queue`."""
        self.prefix = prefix = f"lw:{{{queue}}}:"
        self.tenants = prefix + "tenants"
        self.vt = prefix + "vt"
        self.accepted = prefix + "accepted"
        self.delayed = prefix + "delayed"
        self.deadlines = prefix + "deadlines"
        self.leases = prefix + "leases"
        self.wake = prefix + "wake"
        self.meta = prefix + "meta"
        self.fcfs = prefix + "fcfs"
        self.scheduled = prefix + "scheduled"
        self.ends = prefix + "ends"
        #: What every script about the line begins with; lua/include/line.lua says what each is.
        self.line = (
            self.tenants,
            self.vt,
            self.accepted,
            self.delayed,
            self.deadlines,
            self.leases,
            self.wake,
            self.meta,
            self.fcfs,
            self.scheduled,
            self.ends,
        )
        self.lengths = prefix + "lengths"
        self.record = prefix + "record"  #: Stream: rows to train on, if the queue keeps any.
        self.workers = prefix + "workers"
        self.worker_info = prefix + "worker_info"
        self.control = prefix + "control"
        self.guard = prefix + "tick"

    def ready(self, tenant: str) -> str:
        """Zset: a tenant's waiting jobs -> due time, ms since the epoch."""
        return f"{self.prefix}ready:{tenant}"

    def finished(self, tenant: str) -> str:
        """Zset: a tenant's ended jobs, but for the failed -> when, ms since the epoch."""
        return f"{self.prefix}finished:{tenant}"

    def dead(self, tenant: str) -> str:
        """Zset: a tenant's failed jobs -> when, ms since the epoch."""
        return f"{self.prefix}dead:{tenant}"

    def rate(self, tenant: str) -> str:
        """Hash: a tenant's token buckets."""
        return f"{self.prefix}rate:{tenant}"

    def job(self, job_id: str) -> str:
        """Hash: the record."""
        return f"{self.prefix}job:{job_id}"

    def body(self, job_id: str) -> str:
        """String: the request body."""
        return f"{self.prefix}in:{job_id}"

    def out(self, job_id: str) -> str:
        """Stream: the output."""
        return f"{self.prefix}out:{job_id}"

    def idem(self, tenant: str, key: str) -> str:
        """String: the job that owns a tenant's idempotency key."""
        return f"{self.prefix}idem:{tenant}:{key}"


class FileKeys:
    """The keys of files: one slot for the ledger of them all, and one for each file's content."""

    prefix = "lw:files:{ledger}:"
    sizes = prefix + "sizes"  #: Hash: file id -> "bytes tenant".
    expiry = prefix + "expiry"  #: Zset: file id -> when it goes, ms since the epoch.
    totals = prefix + "totals"  #: Hash: "*" and "t:<tenant>" -> bytes.
    #: What every script about the ledger begins with.
    ledger = (sizes, expiry, totals)

    @classmethod
    def record(cls, file_id: str) -> str:
        """String: what is known of a file, JSON."""
        return f"{cls.prefix}file:{file_id}"

    @classmethod
    def of(cls, tenant: str) -> str:
        """Zset: a tenant's files -> when they were made, ms since the epoch."""
        return f"{cls.prefix}of:{tenant}"

    @staticmethod
    def content(file_id: str) -> str:
        """Hash: block number -> bytes. A tag of its own, so that Cluster spreads the files."""
        return f"lw:files:{{{file_id}}}:content"


class BatchKeys:
    """The keys of one batch, in a slot of their own; and of the ledger of all."""

    ledger = "lw:batches:{ledger}:"
    active = ledger + "active"  #: Zset: id of an unfinished batch -> taken until, ms.

    def __init__(self, batch_id: str) -> None:
        """Name the keys of one batch."""
        prefix = f"lw:batches:{{{batch_id}}}:"
        self.record = prefix + "record"  #: Hash: all that is known of it.
        self.open = prefix + "open"  #: Hash: line -> where it stands, of lines without a result.
        self.out = prefix + "out"  #: Hash: the blocks of its output file.
        self.err = prefix + "err"  #: Hash: the blocks of its error file.

    @classmethod
    def of(cls, tenant: str) -> str:
        """Zset: a tenant's batches -> when they were made, ms since the epoch."""
        return f"{cls.ledger}of:{tenant}"


def response_key(response_id: str) -> str:
    """String: what is known of a response beside its job, JSON."""
    return f"lw:responses:{{{response_id}}}"
