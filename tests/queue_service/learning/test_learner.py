"""The learner finds what lengths depend on, forgets what does not, and is the same everywhere."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from tests.queue_service.learning.made_jobs import STATIC, by_view, job

from lengthwise_learning import learner
from lengthwise_learning.evidence import Evidence, Submission
from lengthwise_learning.learned import Learned
from lengthwise_learning.learner import fit
from lengthwise_learning.similar import similar


def fitted(evidence: list[Evidence], **more: object) -> Learned:
    learned = fit(evidence, finished=len(evidence), **more)  # type: ignore[arg-type]
    assert learned is not None
    return learned


def predicted(learned: Learned, submission: Submission) -> float:
    forecast = learned.predict(submission)
    assert forecast is not None
    return forecast.learned


def correlation(learned: Learned, jobs: list[Evidence]) -> float:
    found = [predicted(learned, j.submission) for j in jobs]
    return float(np.corrcoef(found, [math.log1p(j.tokens) for j in jobs])[0, 1])


def test_nothing_is_learned_from_fewer_than_32_jobs() -> None:
    rng = np.random.default_rng(0)
    assert fit([], finished=0) is None
    assert fit(by_view(rng, 31), finished=31) is None
    assert fit(by_view(rng, 32), finished=32) is not None


def test_a_length_that_follows_from_the_view_is_learned() -> None:
    rng = np.random.default_rng(1)
    learned = fitted(by_view(rng, 300))
    assert correlation(learned, by_view(rng, 100)) > 0.8


def test_a_length_that_follows_from_a_word_is_learned() -> None:
    rng = np.random.default_rng(2)
    jobs = [job(rng, 4.0 + 1.5 * (i % 2), words=((400 + i % 2),) * 3) for i in range(200)]
    learned = fitted(jobs)
    short = predicted(learned, job(rng, words=(400,) * 3).submission)
    long = predicted(learned, job(rng, words=(401,) * 3).submission)
    assert long - short > 0.4


def test_applications_are_told_apart_where_texts_are_alike() -> None:
    rng = np.random.default_rng(3)
    jobs = [job(rng, 3.0 + (i % 3), application=f"app-{i % 3}") for i in range(90)]
    learned = fitted(jobs)
    found = [predicted(learned, job(rng, application=f"app-{i}").submission) for i in range(3)]
    assert found[0] + 0.5 < found[1] < found[2] - 0.5
    unknown = predicted(learned, job(rng, application="new").submission)
    assert found[0] < unknown < found[2]


def test_the_level_of_an_llm_is_that_of_its_own_jobs() -> None:
    rng = np.random.default_rng(4)
    jobs = [job(rng, 3.0 + 2 * (i % 2), llm=f"llm-{i % 2}") for i in range(120)]
    learned = fitted(jobs)
    low, high = (predicted(learned, job(rng, llm=f"llm-{i}").submission) for i in range(2))
    assert low == pytest.approx(3.0, abs=0.3)
    assert high == pytest.approx(5.0, abs=0.3)


def test_another_queues_jobs_teach_a_queue_that_has_few_of_its_own() -> None:
    rng = np.random.default_rng(5)
    donors = by_view(rng, 200, llm="other")
    alone, helped = by_view(rng, 40), fitted(by_view(rng, 4), donors=donors)
    assert correlation(helped, by_view(rng, 100)) > correlation(fitted(alone), by_view(rng, 100))


def test_a_cut_answer_counts_as_longer_than_its_cap() -> None:
    rng = np.random.default_rng(6)
    whole = [job(rng, 5.0) for _ in range(60)]
    cut = [dataclasses.replace(e, censored=True) for e in whole]
    one = job(rng).submission
    gap = predicted(fitted(cut), one) - predicted(fitted(whole), one)
    assert gap == pytest.approx(math.log(1.5), abs=0.05)


def test_one_endless_answer_moves_no_prediction_far() -> None:
    rng = np.random.default_rng(7)
    jobs = by_view(rng, 200)
    wild = [*jobs[:-1], dataclasses.replace(jobs[-1], tokens=200_000)]
    one = jobs[-1].submission
    assert predicted(fitted(wild), one) < STATIC + 3.5


def test_a_repeated_request_is_predicted_by_its_last_answers() -> None:
    rng = np.random.default_rng(8)
    jobs = by_view(rng, 60)
    repeated = [job(rng, 8.0, request="the same") for _ in range(3)]
    learned = fitted([*jobs, *repeated])
    submission = job(rng, request="the same").submission
    other = dataclasses.replace(submission, request="another")
    assert predicted(learned, submission) > predicted(learned, other) + 1.5
    # The answers of another LLM are no repeats.
    elsewhere = dataclasses.replace(submission, llm="other")
    assert predicted(learned, elsewhere) < predicted(learned, submission) - 1.0


def test_jobs_older_than_the_window_leave_what_their_words_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learner, "WINDOW", 100)
    rng = np.random.default_rng(9)
    old = [job(rng, 4.0 + 1.5 * (i % 2), words=((400 + i % 2),) * 3) for i in range(400)]
    new = [job(rng, 4.0 + 1.5 * (i % 2), words=((500 + i % 2),) * 3) for i in range(100)]
    learned = fitted([*old, *new])
    short = predicted(learned, job(rng, words=(400,) * 3).submission)
    long = predicted(learned, job(rng, words=(401,) * 3).submission)
    assert long - short > 0.5


def test_the_young_candidate_follows_a_change_that_nothing_announced() -> None:
    rng = np.random.default_rng(10)
    learned = fitted([*by_view(rng, 800), *by_view(rng, 200, slope=-2.0)])
    later = by_view(rng, 60, slope=-2.0)
    forecasts = [learned.predict(e.submission) for e in later]
    lengths = [math.log1p(e.tokens) for e in later]
    young = [f.young for f in forecasts if f is not None and f.young is not None]
    old = [f.learned for f in forecasts if f is not None]
    assert np.corrcoef(young, lengths)[0, 1] > 0.6
    assert np.corrcoef(old, lengths)[0, 1] < 0.0


def test_the_same_jobs_give_the_same_bytes_and_these_the_same_predictions() -> None:
    rng = np.random.default_rng(11)
    jobs = [*by_view(rng, 250, application="a", request="r"), *by_view(rng, 250, llm="other")]
    first, second = fitted(jobs), fitted(list(jobs))
    assert first.to_bytes() == second.to_bytes()
    read = Learned.from_bytes(first.to_bytes())
    assert (read.version, read.finished, read.samples) == (first.version, 500, 500)
    for one in by_view(rng, 20, application="a"):
        assert read.predict(one.submission) == first.predict(one.submission)


def test_evidence_that_went_through_bytes_teaches_the_same() -> None:
    rng = np.random.default_rng(12)
    jobs = by_view(rng, 64, application="a", request="r", tenant="t")
    read = [Evidence.unpack(e.pack()) for e in jobs]
    one = dataclasses.replace(jobs[0].submission, request="")
    assert predicted(fitted(read), one) == pytest.approx(predicted(fitted(jobs), one), abs=1e-3)


def test_keyed_words_teach_the_same_and_are_not_the_words() -> None:
    rng = np.random.default_rng(13)
    jobs = [job(rng, 4.0 + 1.5 * (i % 2), words=((400 + i % 2),) * 3) for i in range(200)]

    def keyed(submission: Submission) -> Submission:
        return dataclasses.replace(submission, view=submission.view.keyed(b"secret"))

    secret = [dataclasses.replace(e, submission=keyed(e.submission)) for e in jobs]
    one = job(rng, words=(400,) * 3).submission
    assert predicted(fitted(secret), keyed(one)) == pytest.approx(
        predicted(fitted(jobs), one), abs=1e-3
    )
    assert not set(one.view.words) & set(keyed(one).view.words)
    assert keyed(one).view.words.tolist() != one.view.keyed(b"other").words.tolist()


def test_evidence_of_another_predictor_is_not_learned_from() -> None:
    rng = np.random.default_rng(14)
    old, new = by_view(rng, 100, basis=1), by_view(rng, 40, basis=2)
    learned = fitted([*old, *new])
    assert learned.samples == 40
    assert learned.predict(old[0].submission) is None
    assert learned.version != fitted(old).version


@pytest.mark.parametrize(
    "packed", [b"", b"something else", b"lengthwise learned 1\n\x05\x00\x00\x00{}"]
)
def test_other_bytes_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="no fit of this version"):
        Learned.from_bytes(packed)


def test_similar_jobs_are_the_callers_own_and_a_repeat_comes_first() -> None:
    rng = np.random.default_rng(15)
    jobs = [job(rng, words=(401,) * 4, tenant="me", request=f"r{i}") for i in range(5)]
    others = [job(rng, words=(400,) * 4, tenant="other", request="r2") for _ in range(5)]
    one = dataclasses.replace(jobs[2].submission, request="r2")
    found = similar(one, [*jobs, *others], most=3)
    assert len(found) == 3
    assert (found[0].similarity, found[0].tokens) == (1.0, jobs[2].tokens)
    assert all(0 <= f.similarity <= 1 for f in found)
    assert {f.tokens for f in found} <= {e.tokens for e in jobs}
    assert similar(dataclasses.replace(one, tenant="nobody"), jobs) == []
