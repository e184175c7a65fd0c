"""The state of a simulation: the pool of requests in the system, the queue and the slots.

Everything is in NumPy arrays, because compiled code reads nothing else. Nothing grows with the
number of requests that were served: a request frees its place in the pool when it ends.

"Work" is counted in steps of the engine, one token each, or in seconds where the engine is a
plain set of independent slots. `X` is how much work an always running request would have received.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Columns of `State.f`, one row for each request in the system: times in s, work in steps or s.
# QUOTA is the work after which the request is requeued, PROC what the policy has counted for it.
ARRIVAL, SIZE, DONE, PRED, SLACK, QUOTA, FIRST, TTFT, LAST_X, LAST_T, GAP = range(11)
PROC, ORDER, KEY, OVERTAKEN = range(11, 15)
N_FLOATS = 15
# Columns of `State.n`. PREFILL: prompt tokens still to compute; CHILD and SIBLING: the heap;
# WAIT_AT: the place in `waiting`.
PROMPT, OUT, TENANT, NUMBER, LEVEL, RUNS, PROMOTED, PREFILL, CHILD, SIBLING, WAIT_AT = range(11)
N_INTS = 11

# Scalars: `State.s` (float) ...
NOW, X, NEXT_END, CONTEXT, STALL, NEXT_PROMOTION, NEWEST_STARTED, VIRTUAL, BUSY, BACKLOG = range(10)
N_S = 10
# ... and `State.i` (int).
N_RUN, N_DECODE, N_WAIT, FREE_BLOCKS, NEXT_INCOMING, N_FREE, FINISHED, N_PREFILL, COUNTER = range(9)
PREEMPTIONS, REDONE, RING_HEAD, RING_TAIL, MAX_WAITING, FIRST_NUMBER, EVENTS = range(9, 16)
N_I = 16

# Columns of `State.run_f`, one row for each running request.
END, START_X, START_T = range(3)

# Columns of `State.tenant_f` and of `State.tenant_n`.
VTIME, WEIGHT, SLOWDOWNS, ENDED, TOKENS = range(5)
OF_WAITING, OF_DECODING = range(2)


class State(NamedTuple):
    """The values that change while a simulation runs.

    Attributes:
        f, n: (pool, columns above): the requests in the system.
        free: (pool,): free places in the pool; the first `N_FREE` count.
        waiting: (pool,): waiting requests, in no order (sorted for `INSERTION`, the next one last).
        roots: (tenants,): the root of each tenant's heap; -1: empty.
        run_f, run_n: (slots, 3), (slots,): running requests, in no order.
        prefill: (slots,): running requests whose prompt is not computed yet, in order.
        phases: (block size,): how many running requests need a new KV block in step X mod size.
        tenant_f: (tenants, 5): virtual time, weight, sum of slowdowns, ended requests, tokens.
        tenant_n: (tenants, 2): waiting and decoding requests.
        ring: (clients,): when clients of a closed loop send their next request, s.
        s, i: scalars.
    """

    f: Floats
    n: Ints
    free: Ints
    waiting: Ints
    roots: Ints
    run_f: Floats
    run_n: Ints
    prefill: Ints
    phases: Ints
    tenant_f: Floats
    tenant_n: Ints
    ring: Floats
    s: Floats
    i: Ints


class Incoming(NamedTuple):
    """The next requests, in order of arrival; all (n,).

    Attributes:
        arrival_s: When each arrives, s; not used in a closed loop.
        prompt: Tokens.
        output: Tokens.
        work: Total work, steps or seconds.
        predicted: Predicted work, in the same unit.
        slack: The part of the key that is fixed on arrival (policies.py).
        quota: After how much work it is requeued; infinite: never.
        tenant: The tenant that sent it, from 0 up.
    """

    arrival_s: Floats
    prompt: Ints
    output: Ints
    work: Floats
    predicted: Floats
    slack: Floats
    quota: Floats
    tenant: Ints


def new_state(
    *, slots: int, blocks: int, block_size: int, weights: Floats, clients: int, pool: int = 1024
) -> State:
    """Return the state of an idle engine with an empty queue.

    Args:
        slots: Requests that run at once.
        blocks: KV blocks; 0: unlimited.
        block_size: Tokens in a block.
        weights: (tenants,): the share of the engine that each tenant should get.
        clients: Clients of a closed loop; 0: requests arrive at their own times.
        pool: Places for requests in the system at the start.
    """
    tenants = np.zeros((len(weights), 5))
    tenants[:, WEIGHT] = weights
    state = State(
        f=np.zeros((pool, N_FLOATS)),
        n=np.zeros((pool, N_INTS), np.int64),
        free=np.arange(pool, dtype=np.int64)[::-1].copy(),
        waiting=np.zeros(pool, np.int64),
        roots=np.full(len(weights), -1, np.int64),
        run_f=np.zeros((slots, 3)),
        run_n=np.zeros(slots, np.int64),
        prefill=np.zeros(slots, np.int64),
        phases=np.zeros(block_size, np.int64),
        tenant_f=tenants,
        tenant_n=np.zeros((len(weights), 2), np.int64),
        ring=np.zeros(max(1, clients)),
        s=np.zeros(N_S),
        i=np.zeros(N_I, np.int64),
    )
    state.s[NEXT_END] = np.inf
    state.s[NEXT_PROMOTION] = np.inf
    state.s[NEWEST_STARTED] = -np.inf
    state.i[N_FREE] = pool
    state.i[FREE_BLOCKS] = blocks if blocks > 0 else np.iinfo(np.int64).max // 4
    state.i[RING_TAIL] = clients
    return state


def grown(state: State) -> State:
    """Return the same state with twice as many places for requests in the system."""
    old = len(state.free)
    free = np.zeros(2 * old, np.int64)
    spare = state.i[N_FREE]
    free[:spare] = state.free[:spare]
    free[spare : spare + old] = np.arange(2 * old - 1, old - 1, -1)
    state.i[N_FREE] = spare + old
    return state._replace(
        f=np.concatenate([state.f, np.zeros_like(state.f)]),
        n=np.concatenate([state.n, np.zeros_like(state.n)]),
        free=free,
        waiting=np.concatenate([state.waiting, np.zeros_like(state.waiting)]),
    )
