"""What is stored of a request: names that are hashes of one tenant, and words under a secret."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest
from tests.queue_service.store.one_queue import OK, Q, accept, claim_one

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.request_view import RequestView
from lengthwise_learning.evidence import Submission
from lengthwise_queue.learning.evidence_cache import EvidenceCache, unpacked
from lengthwise_queue.learning.forecaster import Forecaster, learned_prediction
from lengthwise_queue.learning.request_text import RequestText, predict_request
from lengthwise_queue.learning.similar_jobs import similar_jobs
from lengthwise_queue.learning.submissions import Names, RequestNames, submission_of
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_store.learning.store import LearningStore
from lengthwise_store.prediction_record import Basis, LearnedPrediction, Served
from lengthwise_store.queues import Queue, QueueStats
from lengthwise_store.store import JobStore

NAMES = Names(b"a secret of this test")
VIEW = RequestView(
    basis=7,
    widths=(1, 3, 1, 1, 2, 2),
    numbers=np.arange(10, dtype="<f2").tobytes(),
    words=np.array([3, 3, 500], dtype="<u2").tobytes(),
)
PREDICTION = Prediction(
    model_version="v",
    p10_tokens=5,
    p50_tokens=9,
    p90_tokens=20,
    mean_tokens=10,
    rank_score=2.2,
    view=VIEW.to_text(),
)


def named(
    tenant: str = "acme",
    *,
    instructions: str = "",
    text: str = "Sum up the report of Monday",
    facts: dict[str, Any] | None = None,
) -> RequestNames:
    asked = [{"role": "user", "content": text}]
    return NAMES.request(
        tenant, instructions=instructions, text=text, asked=asked, facts=facts or {}
    )


def test_an_application_is_its_system_prompt_or_its_first_words() -> None:
    assert named(text="Sum up the report of Friday").application == named().application
    assert named(text="Translate the report").application != named().application
    shop = named(instructions="You are a shop.").application
    assert named(instructions="You are a shop.", text="anything").application == shop
    assert named(instructions="You are a bank.").application != shop


def test_a_request_repeats_only_itself() -> None:
    assert named().request == named().request
    assert named(facts={"max_tokens": 5}).request != named().request
    assert named(text="Sum up the report of Friday").request != named().request


def test_no_name_is_shared_by_two_tenants_or_by_two_secrets() -> None:
    same = {"instructions": "You are a shop.", "text": "Hello"}
    own, other = (dataclasses.astuple(named(tenant, **same)) for tenant in ("acme", "globex"))  # type: ignore[arg-type]
    assert set(own).isdisjoint(other)
    assert Names(b"another secret, as long").of("x") != NAMES.of("x")
    assert NAMES.of("ab", "c") != NAMES.of("a", "bc")


def test_another_revision_or_adapter_is_another_llm() -> None:
    settings = QueueSettings(llm="org/m@1")
    found = {
        NAMES.llm("q", settings, None),
        NAMES.llm("q", QueueSettings(llm="org/m@2"), None),
        NAMES.llm("q", settings, "legal"),
        NAMES.llm("other", settings, None),
    }
    assert len(found) == 4


def test_words_are_stored_under_the_secret_or_readable_as_the_queue_is_set() -> None:
    hashed = submission_of(PREDICTION, named(), "llm", b"key")
    readable = submission_of(PREDICTION, named(), "llm", None)
    assert hashed is not None
    assert readable is not None
    assert readable.view.words.tolist() == [3, 3, 500]
    assert sorted(hashed.view.words.tolist()) != [3, 3, 500]
    assert len(hashed.view.words) == 3


@pytest.mark.parametrize("view", [None, "", "not base64!", "AAAA"])
def test_a_prediction_without_a_readable_view_teaches_nothing(view: str | None) -> None:
    one = PREDICTION.model_copy(update={"view": view})
    assert submission_of(one, named(), "llm", None) is None


def snapshot(serving: Served, **settings: Any) -> QueueSnapshot:
    queue = Queue(name="q", settings=QueueSettings(**settings))
    stats = QueueStats(
        now_ms=0, depth=0, scheduled=0, in_flight=0, dead=0, backlog_tokens=0,
        oldest_accepted_ms=None, ms_per_token=None, median_tokens=None, counters={}, workers=[],
        serving=serving,
    )  # fmt: skip
    return QueueSnapshot(queue=queue, stats=stats, read_s=0)


class _Fit:
    """Stands for a fit that predicts 5, and 4 from the newest jobs."""

    def __init__(self, young: float | None) -> None:
        self.young = young

    def predict(self, _: Submission) -> Any:
        return type("Forecast", (), {"learned": 5.0, "young": self.young})()


@pytest.mark.parametrize(
    ("serving", "mode", "young", "want"),
    [
        ("static", "auto", 4.0, "static"),
        ("learned", "auto", 4.0, "learned"),
        ("young", "auto", 4.0, "young"),
        ("young", "auto", None, "learned"),
        ("learned", "shadow", 4.0, "static"),
    ],
)
def test_the_queue_chooses_which_candidate_counts(
    serving: Served, mode: str, young: float | None, want: Served
) -> None:
    submission = submission_of(PREDICTION, named(), "llm", None)
    assert submission is not None
    fit: Any = _Fit(young)
    got = learned_prediction(snapshot(serving, learning=mode), fit, submission)
    assert got == LearnedPrediction(learned=5.0, young=young, served=want)
    assert learned_prediction(snapshot(serving), None, submission) == LearnedPrediction()


def asked(messages: list[dict[str, Any]] | None, text: str, **more: Any) -> RequestText:
    fields: dict[str, Any] = {"instructions": "", "prompts": [], "facts": {"n": 2}, "answers": 1}
    return RequestText(text=text, messages=messages, **(fields | more))


def test_the_predictor_gets_the_texts_with_their_roles_and_the_facts() -> None:
    chat: list[dict[str, Any]] = [
        {"role": "system", "content": "Be a shop."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]},
    ]
    made = predict_request(
        "m", asked(chat, "Hi", instructions="Be a shop."), application="a", view=True
    )
    assert made.messages == [
        {"role": "system", "content": "Be a shop."},
        {"role": "user", "content": "Hi"},
    ]
    assert (made.application, made.n, made.view, made.prompt) == ("a", 2, True, None)
    long = "x" * 20_000
    made = predict_request(
        "m", asked([{"role": "user", "content": long}], long[:9]), application=None, view=False
    )
    assert (made.prompt, made.messages) == (long[:9], None)


def test_similar_jobs_and_the_cache_of_evidence_see_what_finished_and_only_ones_own(
    redis_url: str,
) -> None:
    def packed(tenant: str) -> bytes:
        made = submission_of(PREDICTION, named(tenant), "llm", b"key")
        assert made is not None
        return made.pack()

    async def body() -> None:
        store = JobStore(redis_url)
        learning, basis = LearningStore(store.client), Basis(learning=LearnedPrediction())
        cache = EvidenceCache(learning)
        try:
            for number, tenant in enumerate(["acme", "acme", "globex", "globex", "globex"]):
                await accept(
                    store, f"{number}", prediction=PREDICTION, basis=basis,
                    submission=packed(tenant), tenant=tenant,
                )  # fmt: skip
                done = dataclasses.replace(OK, output_tokens=100 + number)
                await store.finish(Q, (await claim_one(store)).lease, done, worker_id="w1")
                assert [len(x) for x in [(await cache.read(Q))[1]]] == [number + 1]
            waiting = {"prediction": PREDICTION, "basis": basis}
            await accept(store, "own", submission=packed("acme"), tenant="acme", **waiting)
            job = await store.get(Q, "own")
            assert job is not None
            assert [one.tokens for one in await similar_jobs(learning, job)] == [101, 100]
            first = await store.get(Q, "0")
            assert first is not None
            assert [one.tokens for one in await similar_jobs(learning, first)] == [101]
            count, evidence = await cache.read(Q)
            assert (count, [e.tokens for e in unpacked(evidence)]) == (5, [*range(100, 105)])
            await learning.forget(Q)
            assert await cache.read(Q) == (0, [])
        finally:
            await store.aclose()

    asyncio.run(body())


def test_a_forecaster_takes_the_secret_of_the_settings_or_the_one_in_redis(redis_url: str) -> None:
    async def body() -> None:
        store = JobStore(redis_url)
        learning = LearningStore(store.client)
        try:
            keys = (None, None, b"k" * 16)
            made = [Forecaster(learning, key=key, start=lambda _: None) for key in keys]
            words = [(await one.names()).words for one in made]
            assert words[0] == words[1] != words[2]
            assert await made[0].word_key(QueueSettings(keep_words="readable")) is None
        finally:
            await store.aclose()

    asyncio.run(body())
