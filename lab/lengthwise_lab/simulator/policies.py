"""Every policy of the lab, by name. Lengthwise's own is priced by the product's code.

A policy is the kind of an order (core/orders.py), what it knows of a length, and the slack of each
request: the part of its key that is fixed when it arrives. Called by simulation.py.

To add a policy:

- Always: an entry in `_ALL` below. That is all if the key is fixed on arrival (write a `Slack`) or
  is a function of the work done and the predicted length (write a `table`, as `gittins` is).
- Only if the order changes in another way while requests wait or run: a kind, its numbers and its
  branches in core/orders.py, or in core/tenants.py for an order between tenants. No other module of
  the compiled loop knows the kinds, but for the three that keep no heap (core/waiting_queue.py).
- Its tests: tests/lab/simulator/test_policies.py runs every entry of `POLICIES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.stats import norm

from lengthwise_contract.queue_settings import PolicyName, QueueSettings
from lengthwise_lab.errors import BadChoice
from lengthwise_lab.simulator.core import orders
from lengthwise_lab.simulator.core.report_bounds import STARVED_S, STARVED_TIMES
from lengthwise_lab.simulator.core.state import Floats
from lengthwise_queue.scheduling.policy import slack_ms

#: The defaults of a queue: k, and up to how many times the wait that it finds a long request may be
#: overtaken.
DEFAULT_K = QueueSettings().overtake_factor
DEFAULT_WAIT_FACTOR = QueueSettings().overtake_wait_factor

#: Computes the slack from predicted tokens and predicted milliseconds, (n,) each.
Slack = Callable[[Floats, Floats], Floats]


def due_times(policy: PolicyName, k: float) -> Slack:
    """Return the slack of the product's policy, s: `lengthwise_queue.scheduling.policy.slack_ms`.

    That function prices one job; it is called once for each different prediction.
    """

    def slack(_: Floats, predicted_ms: Floats) -> Floats:
        different, which = np.unique(predicted_ms, return_inverse=True)
        priced = [slack_ms(float(ms), policy=policy, overtake_factor=k) for ms in different]
        return np.array(priced)[which] / 1000

    return slack


def by_length(predicted: Floats, _: Floats) -> Floats:
    """Serve the shortest request first, whenever it arrived."""
    return predicted


def by_class(width: float) -> Slack:
    """Serve the shortest class first, in classes of `width` tokens, as LTR's classifiers do."""
    return lambda predicted, _: np.asarray(np.floor(predicted / width))


def none(predicted: Floats, _: Floats) -> Floats:
    """Give no slack: requests are served in order of arrival where waiting counts."""
    return np.zeros_like(predicted)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One way to order a queue.

    Attributes:
        name: The name in a question and in a report.
        about: One line for a reader.
        knows: What it knows of a length.
        kind: The order, of core/orders.py.
        slack: The part of the key that is fixed on arrival.
        order: More fields of `OrderParameters`.
        quota_quantile: A request is requeued after this quantile of its predicted length; None:
            never.
        extra_tokens: The cost of a prediction, output tokens of the LLM itself for each request.
        table: A function of age / predicted length, for a spread of the prediction.
        wait_factor: The product's `overtake_wait_factor`.
    """

    name: str
    about: str
    knows: Literal["nothing", "prediction", "truth"]
    kind: int = orders.STATIC
    slack: Slack = none
    order: Mapping[str, Any] = field(default_factory=dict)
    quota_quantile: float | None = None
    extra_tokens: int = 0
    table: Callable[[Floats, float], Floats] | None = None
    wait_factor: float = 0.0


def gittins(ages: Floats, spread: float) -> Floats:
    """Return 1 / Gittins index of a log-normal length with median 1, at these ages.

    The index at age a is the best ratio, over how long one would serve it further, of the chance
    that it ends to the time spent: `max_d P(X < a + d | X > a) / E[min(X - a, d) | X > a]`. The
    smallest inverse is served first.

    Source: Gittins, "Bandit processes and dynamic allocation indices", 1979.
    """
    grid = np.concatenate([[0.0], np.geomspace(1e-3, 60, 1500)])
    survival = norm.sf(np.log(np.maximum(grid, 1e-12)) / spread)
    time = np.concatenate([[0.0], np.cumsum((survival[1:] + survival[:-1]) / 2 * np.diff(grid))])
    index = np.empty(len(grid) - 1)
    for at in range(len(grid) - 1):
        spent = np.maximum(time[at + 1 :] - time[at], 1e-12)
        index[at] = ((survival[at] - survival[at + 1 :]) / spent).max()
    # Beyond the grid, and where almost no probability is left, the index is constant.
    alive = survival[:-1] > 1e-9
    return np.asarray(np.interp(ages, grid[:-1][alive], 1 / np.maximum(index[alive], 1e-9)))


def mean_remaining(ages: Floats, spread: float) -> Floats:
    """Return the mean remainder, at these ages, of a log-normal length with median 1."""
    logs = np.log(np.maximum(ages, 1e-12)) / spread
    survival = np.maximum(norm.sf(logs), 1e-12)
    beyond = np.exp(spread**2 / 2) * norm.sf(logs - spread)
    # Where almost no probability is left the ratio is noise; the last good value stays.
    left = np.where(survival > 1e-9, beyond / survival - ages, np.nan)
    good = ~np.isnan(left)
    return np.asarray(np.interp(ages, ages[good], np.maximum(left[good], 1e-6)))


_STARVATION = {"promote_after": 200.0, "promote_for": 10}
_NO_STARVATION = {"promote_after": 1e18, "promote_for": 1}
_PREEMPTS: dict[str, Any] = {"preemptive": 1}
_NO_AGE: dict[str, Any] = {"age_weight": 0.0}


def _due(k: float, wait_factor: float = 0.0) -> Policy:
    follows = f", and {wait_factor:g} times the wait it finds" if wait_factor else ""
    return Policy(
        name=f"due-{k:g}" + (f"-wait-{wait_factor:g}" if wait_factor else ""),
        about=f"Lengthwise: due time, k = {k:g}{follows}",
        knows="prediction",
        slack=due_times("sjf", k),
        wait_factor=wait_factor,
    )


def _ltr(name: str, about: str, slack: Slack, starvation: Mapping[str, Any]) -> Policy:
    return Policy(
        name=name,
        about=about,
        knows="prediction",
        kind=orders.LTR,
        slack=slack,
        order={**_PREEMPTS, **_NO_AGE, **starvation},
    )


def _mlfq(name: str, about: str, aging_s: float) -> Policy:
    order = {**_PREEMPTS, "quantum_s": 0.03, "quantum_factor": 2.0, "aging_s": aging_s}
    return Policy(name=name, about=about, knows="nothing", kind=orders.MLFQ, order=order)


def _ssjf_aging(name: str, about: str, true_length: int) -> Policy:
    order = {"aging_s": STARVED_S, "aging_times": STARVED_TIMES, "aging_true": true_length}
    return Policy(name=name, about=about, knows="prediction", kind=orders.SSJF_AGING, order=order)


#: Lengthwise by k alone, and as the product does it by default.
K_ALONE = _due(DEFAULT_K).name
DEFAULT_POLICY = _due(DEFAULT_K, DEFAULT_WAIT_FACTOR).name

_ALL = (
    Policy(name="fcfs", about="first come, first served", knows="nothing",
           slack=due_times("fcfs", 0)),
    *(_due(k) for k in (0, 0.3, 1, 3, 10, 30)),
    _due(DEFAULT_K, DEFAULT_WAIT_FACTOR),
    Policy(name="sjf", about="shortest predicted first", knows="prediction", slack=by_length,
           order=_NO_AGE),
    Policy(name="sjf-oracle", about="shortest first, true lengths", knows="truth",
           slack=by_length, order=_NO_AGE),
    Policy(name="srpt-oracle", about="shortest remaining first, true lengths, preemptive",
           knows="truth", kind=orders.SRPT, order=_PREEMPTS),
    Policy(name="srpt", about="shortest predicted remainder first, preemptive",
           knows="prediction", kind=orders.PREDICTED_SRPT, order=_PREEMPTS),
    Policy(name="hrrn", about="highest response ratio next, predicted lengths",
           knows="prediction", kind=orders.HRRN),
    _ltr("ltr", "LTR: shortest ranked first, preemptive", by_length, _NO_STARVATION),
    _ltr("ltr-starvation", "LTR with its starvation rule, 200 / 10 steps", by_length,
         _STARVATION),
    _ltr("ltr-classes-10", "LTR's classifier, 10 classes of 820 tokens", by_class(820),
         _NO_STARVATION),
    _ltr("ltr-classes-82", "LTR's classifier, 82 classes of 100 tokens", by_class(100),
         _NO_STARVATION),
    _ltr("ltr-classes-820", "LTR's classifier, 820 classes of 10 tokens", by_class(10),
         _NO_STARVATION),
    Policy(name="ltr-perception",
           about="LTR's PO: the LLM predicts its length in its first 15 tokens",
           knows="prediction", kind=orders.PERCEPTION, slack=by_length, order=_PREEMPTS,
           extra_tokens=15),
    _ssjf_aging("ssjf", "SSJF with its aging, 100 s or 10 times the true length", 1),
    _ssjf_aging("ssjf-fair-aging", "SSJF's aging by the predicted length", 0),
    Policy(name="ssjf-pairwise", about="SSJF's insertion by pairwise comparisons",
           knows="prediction", kind=orders.INSERTION),
    _mlfq("mlfq", "MLFQ as LTR measured it: its aging never runs", 0.0),
    _mlfq("mlfq-aging", "MLFQ with the aging that was meant, 3 s", 3.0),
    Policy(name="vtc", about="VTC: least served tenant first, by arrival inside", knows="nothing",
           kind=orders.VTC),
    Policy(name="fair",
           about=f"Lengthwise between tenants: virtual time, due time inside, k = {DEFAULT_K:g}",
           knows="prediction", kind=orders.FAIR, slack=due_times("sjf", DEFAULT_K)),
    Policy(name="gittins", about="Gittins index of the predicted distribution, preemptive",
           knows="prediction", kind=orders.GITTINS, order=_PREEMPTS, table=gittins),
    Policy(name="remaining", about="predicted remainder, recomputed each 16 steps; no request is "
           "preempted after 80 % of its predicted length", knows="prediction",
           kind=orders.REMAINING, order=_PREEMPTS, table=mean_remaining),
    Policy(name="chunks",
           about=f"Lengthwise by chunks: requeued at the predicted p80, k = {DEFAULT_K:g}",
           knows="prediction", slack=due_times("sjf", DEFAULT_K), quota_quantile=0.8),
)  # fmt: skip

POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in _ALL}


def policy_named(name: str) -> Policy:
    """Return the policy of that name; every `due-K` and `due-K-wait-C` is one.

    Raises:
        BadChoice: There is no such policy; the message lists those that there are.
    """
    if name in POLICIES:
        return POLICIES[name]
    form = re.fullmatch(r"due-(?P<k>[0-9.e+-]+?)(-wait-(?P<wait>[0-9.e+-]+))?", name)
    if form is not None:
        try:
            k, wait = float(form["k"]), float(form["wait"] or 0)
        except ValueError:
            k = wait = -1.0
        if 0 <= k < float("inf") and 0 <= wait < float("inf"):
            return _due(k, wait)
    raise BadChoice(
        f"no policy {name!r}; the policies are {', '.join(POLICIES)}, and due-K and due-K-wait-C "
        "for any K and C"
    )
