"""Evidence as bytes: what the store writes is read back, and other bytes are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.queue_service.learning.made_jobs import job

from lengthwise_contract.request_view import RequestView
from lengthwise_learning.evidence import Evidence, Submission, evidence_head
from lengthwise_learning.view import View

NAMES = st.text(max_size=40)
GUESS = st.none() | st.floats(0, 14, width=32)


@settings(max_examples=50, deadline=None)
@given(
    llm=NAMES, application=NAMES, request=NAMES, tenant=NAMES, learned=GUESS, young=GUESS,
    tokens=st.integers(0, 10**7), censored=st.booleans(),
)  # fmt: skip
def test_evidence_is_read_as_it_was_written(
    llm: str,
    application: str,
    request: str,
    tenant: str,
    learned: float | None,
    young: float | None,
    tokens: int,
    censored: bool,
) -> None:
    made = job(np.random.default_rng(0)).submission
    submission = dataclasses.replace(
        made,
        llm=llm,
        application=application,
        request=request,
        tenant=tenant,
        learned=learned,
        young=young,
    )
    # Lua writes the head before the bytes of the submission.
    stored = f"{tokens} {int(censored)} ".encode() + submission.pack()
    assert stored == evidence_head(tokens, censored=censored) + submission.pack()
    got = Evidence.unpack(stored)
    assert (got.tokens, got.censored) == (tokens, censored)
    read = got.submission
    assert (read.llm, read.application, read.request) == (llm, application, request)
    assert (read.tenant, read.learned, read.young) == (tenant, learned, young)
    assert (read.view.vector == made.view.vector).all()
    assert (read.view.words == made.view.words).all()


@pytest.mark.parametrize(
    "packed", [b"", b"1 0 ", b"x 0 rest", b"1 2 rest", b"12", b"1 0 \x01\x00"], ids=repr
)
def test_other_bytes_are_no_evidence(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"no (evidence|submission|view)"):
        Evidence.unpack(packed)


def test_a_submission_that_was_cut_short_is_refused() -> None:
    packed = job(np.random.default_rng(0)).submission.pack()
    for end in range(0, len(packed) - 1, 7):
        with pytest.raises(ValueError):  # noqa: PT011 - of which part depends on the place
            Submission.unpack(packed[:end])


def test_a_name_that_is_too_long_is_refused_with_a_remedy() -> None:
    submission = dataclasses.replace(job(np.random.default_rng(0)).submission, llm="x" * 256)
    with pytest.raises(ValueError, match="give its hash"):
        submission.pack()


def test_a_view_that_is_not_finite_is_refused() -> None:
    view = job(np.random.default_rng(0)).submission.view
    bad = dataclasses.replace(view, vector=np.full_like(view.vector, np.nan))
    with pytest.raises(ValueError, match="not finite"):
        View.unpack(bad.pack())


@pytest.mark.parametrize("text", ["", "no base64 at all!", "AAAA"])
def test_a_text_that_is_no_view_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="view of a request"):
        RequestView.from_text(text)
