"""Requests in arrays, many at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lengthwise_lab.simulator.core.state import Floats, Ints


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """Requests in order of arrival; every array is (n,).

    Attributes:
        arrival_s: When each arrives, s from the start; zeros in a closed loop.
        prompt: Tokens.
        output: Tokens, >= 1.
        predicted: The prediction of `output`, tokens, > 0.
        recorded: The class that a real predictor chose; -1: none was recorded.
        tenant: The tenant that sent it, from 0 up.
    """

    arrival_s: Floats
    prompt: Ints
    output: Ints
    predicted: Floats
    recorded: Ints
    tenant: Ints

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.arrival_s)

    def part(self, start: int, stop: int) -> Jobs:
        """Return the requests from `start` to `stop`."""
        cut = slice(start, stop)
        return Jobs(
            arrival_s=self.arrival_s[cut],
            prompt=self.prompt[cut],
            output=self.output[cut],
            predicted=self.predicted[cut],
            recorded=self.recorded[cut],
            tenant=self.tenant[cut],
        )

    def with_predictions(self, predicted: Floats) -> Jobs:
        """Return the same requests with these predictions."""
        return replace(self, predicted=np.maximum(predicted, 1e-6))


def jobs_of(
    arrival_s: Floats,
    output: Ints,
    *,
    prompt: Ints | None = None,
    recorded: Ints | None = None,
    tenant: Ints | None = None,
) -> Jobs:
    """Make requests of known lengths, with exact predictions."""
    count = len(output)
    return Jobs(
        arrival_s=np.asarray(arrival_s, np.float64),
        prompt=np.ones(count, np.int64) if prompt is None else prompt.astype(np.int64),
        output=output.astype(np.int64),
        predicted=output.astype(np.float64),
        recorded=np.full(count, -1) if recorded is None else recorded.astype(np.int64),
        tenant=np.zeros(count, np.int64) if tenant is None else tenant.astype(np.int64),
    )
