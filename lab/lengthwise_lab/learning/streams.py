"""Streams of jobs for the learner: the rows of a file, by LLM and source, in a random order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lengthwise_contract.prompts import split_instructions
from lengthwise_lab.errors import BadWorkload
from lengthwise_training.data.rows import LengthRow

#: A stream needs so many rows: the first fit, and rows to score it on.
LEAST_ROWS = 150


@dataclass(frozen=True, kw_only=True)
class LearnJob:
    """One job of a stream.

    Attributes:
        prompt: The text that the predictor reads.
        llm: Name of the LLM that the predictor is asked about.
        tag: Which LLM answers, to the learner.
        application: A hash; "": unknown.
        tokens: Length of its answer.
        cap: The request's cap, tokens; None: none.
        censored: Whether the answer was cut.
    """

    prompt: str
    llm: str
    tag: str
    application: str
    tokens: int
    cap: int | None
    censored: bool


@dataclass(frozen=True, kw_only=True)
class LearnStream:
    """The traffic of one queue.

    Attributes:
        llm: Name of its LLM.
        source: Where the rows are from.
        rows: In the file's order.
        changed: Rows of another LLM, from which the second half of the jobs is taken; (): none.
        says_so: Whether the LLM's name changes with it.
    """

    llm: str
    source: str
    rows: tuple[LengthRow, ...]
    changed: tuple[LengthRow, ...] = ()
    says_so: bool = False

    def jobs(self, *, seed: int, limit: int, cap: int | None) -> list[LearnJob]:
        """Draw an order of the rows, and a sample of each row's lengths.

        Args:
            seed: Of the order and of the samples.
            limit: Most jobs.
            cap: Cut longer answers at so many tokens; None: as measured.
        """
        rng = np.random.default_rng(seed)
        jobs = _shuffled(self.rows, self.llm, rng, cap)
        if self.changed:
            half = min(limit, 2 * len(jobs), 2 * len(self.changed)) // 2
            tag = f"{self.llm} changed" if self.says_so else self.llm
            later = _shuffled(self.changed, self.llm, rng, cap)[:half]
            return jobs[:half] + [replace(job, tag=tag) for job in later]
        return jobs[:limit]


def streams_of(
    rows: Sequence[LengthRow],
    *,
    by_source: bool = True,
    source: str = "",
    change_to: str | None = None,
    says_so: bool = False,
) -> list[LearnStream]:
    """Group rows into streams, the longest first; those with fewer than `LEAST_ROWS` are left out.

    Args:
        rows: Of a file.
        by_source: One stream for each LLM and source; False: one for each LLM.
        source: Name of the source where `by_source` is False.
        change_to: In the middle of each stream the answers become those of this LLM.
        says_so: Whether the queue is told of that change.

    Raises:
        BadWorkload: No stream is left.
    """
    groups: dict[tuple[str, str], list[LengthRow]] = {}
    for row in rows:
        groups.setdefault((row.llm, row.source if by_source else source), []).append(row)
    found = []
    for (llm, of_source), members in groups.items():
        changed: list[LengthRow] = []
        if change_to is not None:
            changed = groups.get((change_to, of_source), [])
            if llm == change_to or not changed:
                continue
        if len(members) >= LEAST_ROWS:
            found.append(
                LearnStream(
                    llm=llm,
                    source=of_source,
                    rows=tuple(members),
                    changed=tuple(changed),
                    says_so=says_so,
                )
            )
    if not found:
        raise BadWorkload(
            f"no LLM has {LEAST_ROWS} rows of one source"
            + ("" if change_to is None else f" beside rows of {change_to}")
            + "; give a file with more rows, or --by llm"
        )
    return sorted(found, key=lambda s: -len(s.rows))


def application_of(row: LengthRow) -> str:
    """Return the application of a row: the one that it names, else that of its system prompt."""
    name = row.application
    if name is None and row.messages:
        name = split_instructions(row.messages)[0]
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest() if name else ""


def _shuffled(
    rows: Sequence[LengthRow], llm: str, rng: np.random.Generator, cap: int | None
) -> list[LearnJob]:
    jobs = []
    for at in rng.permutation(len(rows)):
        row = rows[at]
        sample = int(rng.integers(len(row.samples)))
        tokens, censored = row.samples[sample], row.censored[sample]
        if cap is not None and tokens >= cap:
            tokens, censored = cap, True
        jobs.append(
            LearnJob(
                prompt=row.prompt,
                llm=llm,
                tag=llm,
                application=application_of(row),
                tokens=max(tokens, 1),
                cap=cap if cap is not None else (tokens if censored else None),
                censored=censored,
            )
        )
    return jobs
