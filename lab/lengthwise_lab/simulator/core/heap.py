"""A pairing heap in the columns of the pool, so that each tenant's heap is one number: its root.

Source: Fredman, Sedgewick, Sleator, Tarjan, "The pairing heap", 1986. A binary heap would need an
array for each tenant; pop is O(log n) amortised in both. The smallest key is first; equal keys are
in order of arrival.
"""

from __future__ import annotations

from lengthwise_lab.simulator.core.compiled import compiled
from lengthwise_lab.simulator.core.state import CHILD, KEY, NUMBER, SIBLING, Floats, Ints


@compiled
def before(f: Floats, n: Ints, a: int, b: int) -> bool:
    """Return whether request `a` is served before `b`."""
    if f[a, KEY] != f[b, KEY]:
        return bool(f[a, KEY] < f[b, KEY])
    return bool(n[a, NUMBER] < n[b, NUMBER])


@compiled
def meld(f: Floats, n: Ints, a: int, b: int) -> int:
    """Join two heaps into one and return its root; neither root has a sibling."""
    if before(f, n, b, a):
        a, b = b, a
    n[b, SIBLING] = n[a, CHILD]
    n[a, CHILD] = b
    return a


@compiled
def push(f: Floats, n: Ints, root: int, a: int) -> int:
    """Insert request `a` with its key in the pool; return the new root."""
    n[a, CHILD] = -1
    n[a, SIBLING] = -1
    return a if root == -1 else meld(f, n, root, a)


@compiled
def pop(f: Floats, n: Ints, root: int) -> int:
    """Remove the root; return the new root, -1 if the heap is empty."""
    rest = n[root, CHILD]
    pairs = -1
    while rest != -1:
        a = rest
        b = n[a, SIBLING]
        n[a, SIBLING] = -1
        if b == -1:
            rest = -1
        else:
            rest = n[b, SIBLING]
            n[b, SIBLING] = -1
            a = meld(f, n, a, b)
        n[a, SIBLING] = pairs
        pairs = a
    left = -1
    while pairs != -1:
        following = n[pairs, SIBLING]
        n[pairs, SIBLING] = -1
        left = pairs if left == -1 else meld(f, n, left, pairs)
        pairs = following
    return left
