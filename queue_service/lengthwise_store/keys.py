"""Names of the keys in Redis. A queue's keys share a hash tag: one Cluster slot."""

from __future__ import annotations

#: Hash: queue name -> what people set, JSON.
QUEUES = "lw:queues"

#: Hash: queue name -> what a worker published last, JSON. The hash tag puts it beside `QUEUES`.
PUBLISHED = "lw:published:{lw:queues}"


#: String: the secret by which the words of requests are hashed. It is apart from the evidence.
LEARNING_KEY = "lw:learning:key"


class QueueKeys:
    """The keys of one queue; all of them start with `prefix`."""

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
        #: The keys that every script about a queue begins with; lua/include/queue.lua describes
        #: each.
        self.script_keys = (
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
        self.views = prefix + "views"  #: Hash: id of an unfinished job -> what is learned from it.
        self.evidence = prefix + "evidence"  #: List: the finished jobs that are learned from.
        self.learned = prefix + "learned"  #: String: what was learned from them.
        self.learner = prefix + "learner"  #: String: the lease of the replica that learns.
        self.record = prefix + "record"  #: Stream: the training log, if the queue keeps one.
        self.workers = prefix + "workers"
        self.worker_info = prefix + "worker_info"
        self.control = prefix + "control"
        self.guard = prefix + "tick"

    def ready(self, tenant: str) -> str:
        """Zset: a tenant's waiting jobs -> due time, ms since the epoch."""
        return f"{self.prefix}ready:{tenant}"

    def finished(self, tenant: str) -> str:
        """Zset: a tenant's ended jobs, except failed ones -> end, ms since the epoch."""
        return f"{self.prefix}finished:{tenant}"

    def dead(self, tenant: str) -> str:
        """Zset: a tenant's failed jobs -> end, ms since the epoch."""
        return f"{self.prefix}dead:{tenant}"

    def rate(self, tenant: str) -> str:
        """Hash: a tenant's token buckets."""
        return f"{self.prefix}rate:{tenant}"

    def job(self, job_id: str) -> str:
        """Hash: a job's record."""
        return f"{self.prefix}job:{job_id}"

    def body(self, job_id: str) -> str:
        """String: a job's request body."""
        return f"{self.prefix}in:{job_id}"

    def out(self, job_id: str) -> str:
        """Stream: a job's output."""
        return f"{self.prefix}out:{job_id}"

    def idem(self, tenant: str, key: str) -> str:
        """String: the job that owns a tenant's idempotency key."""
        return f"{self.prefix}idem:{tenant}:{key}"


class FileKeys:
    """The keys of files: one slot for the ledger of all files, and one for each file's content."""

    prefix = "lw:files:{ledger}:"
    sizes = prefix + "sizes"  #: Hash: file id -> "bytes tenant".
    expiry = prefix + "expiry"  #: Zset: file id -> expiry, ms since the epoch.
    totals = prefix + "totals"  #: Hash: "*" and "t:<tenant>" -> bytes.
    #: The keys that every script about the ledger begins with.
    ledger = (sizes, expiry, totals)

    @classmethod
    def record(cls, file_id: str) -> str:
        """String: a file's record, JSON."""
        return f"{cls.prefix}file:{file_id}"

    @classmethod
    def of(cls, tenant: str) -> str:
        """Zset: a tenant's files -> creation, ms since the epoch."""
        return f"{cls.prefix}of:{tenant}"

    @staticmethod
    def content(file_id: str) -> str:
        """Hash: block number -> bytes. Its own hash tag, so that a Cluster spreads the files."""
        return f"lw:files:{{{file_id}}}:content"


class BatchKeys:
    """The keys of one batch, in a slot of their own; and those of the ledger of all batches."""

    ledger = "lw:batches:{ledger}:"
    active = ledger + "active"  #: Zset: id of an unfinished batch -> lease end, ms.

    def __init__(self, batch_id: str) -> None:
        """Name the keys of one batch."""
        prefix = f"lw:batches:{{{batch_id}}}:"
        self.record = prefix + "record"  #: Hash: the record.
        self.open = (
            prefix + "open"
        )  #: Hash: line -> its place in the input, of lines without a result.
        self.out = prefix + "out"  #: Hash: the blocks of its output file.
        self.err = prefix + "err"  #: Hash: the blocks of its error file.

    @classmethod
    def of(cls, tenant: str) -> str:
        """Zset: a tenant's batches -> creation, ms since the epoch."""
        return f"{cls.ledger}of:{tenant}"


def response_key(response_id: str) -> str:
    """String: the record of a response, JSON."""
    return f"lw:responses:{{{response_id}}}"


def turn_key(response_id: str) -> str:
    """String: the messages of a response that a later one continues from, JSON."""
    return f"{response_key(response_id)}:turn"
