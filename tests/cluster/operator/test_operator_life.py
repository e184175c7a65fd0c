"""The life of an LLMService on a real API server: created, repaired, changed, scaled, deleted."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.operator.rig import Rig

pytestmark = [pytest.mark.kube, pytest.mark.timeout(400)]

Made = Callable[..., Any]


def wait(look: Callable[[], Any], *, within_s: float = 60) -> Any:
    return eventually(look, "the condition of the test", within_s=within_s, every_s=0.5)


class Load:
    """Sends requests from several clients until it ends; counts the answers."""

    def __init__(self, rig: Rig, model: str, *, clients: int, tokens: int) -> None:
        self.answered, self.failed = 0, list[str]()
        self._rig, self._model, self._tokens = rig, model, tokens
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=120)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._rig.ask(self._model, tokens=self._tokens, timeout_s=120)
            except httpx.HTTPError as exc:
                self.failed.append(repr(exc))
                continue
            if answer.is_success:
                self.answered += 1
            else:
                self.failed.append(f"{answer.status_code} {answer.text}")


def test_one_manifest_becomes_a_service_that_the_openai_client_can_use(
    rig: Rig, made: Made
) -> None:
    made(rig.simulated("hello"))
    seen = rig.wait_ready("hello")
    with openai.OpenAI(base_url=f"{rig.url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model="hello", messages=[{"role": "user", "content": "hi"}], max_tokens=5
        )
    assert answer.choices[0].message.content
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    assert seen["status"]["readyReplicas"] == 1
    assert {c["status"] for c in seen["status"]["conditions"]} == {"True"}


def test_kubectl_shows_the_state_of_a_service(rig: Rig, made: Made) -> None:
    made(rig.simulated("columns"))
    rig.wait_ready("columns")
    table = rig.kube("get", "llmservices.lengthwise.dev", "columns").splitlines()
    assert table[0].split() == [
        *("NAME", "MODEL", "READY", "REASON", "REPLICAS", "QUEUED", "BACKLOG", "AGE"),
    ]
    assert table[1].split()[:4] == ["columns", "hf://simulated/model", "True", "Ready"]
    described = rig.kube("describe", "llmservices.lengthwise.dev", "columns")
    assert "EngineReady: " in described  # an event
    # An old kubectl reads the group in the name as a field.
    version = "--api-version=lengthwise.dev/v1alpha1"
    explained = rig.kube("explain", "llmservices.spec.queue.overtakeFactor", version)
    assert "no job is overtaken" in " ".join(explained.split())


def test_a_child_that_is_edited_or_deleted_by_hand_is_repaired(rig: Rig, made: Made) -> None:
    made(rig.simulated("drift"))
    rig.wait_ready("drift")
    before = rig.kube.get("service", "drift-engine")["metadata"]["uid"]
    rig.kube("scale", "deployment", "drift-engine", "--replicas=0")
    rig.kube(
        "label", "networkpolicy", "drift-engine", "lengthwise.dev/service=other", "--overwrite"
    )
    rig.kube("delete", "service", "drift-engine")

    def repaired() -> bool:
        service = rig.kube.get("service", "drift-engine")
        policy = rig.kube.get("networkpolicy", "drift-engine")
        return (
            rig.replicas("drift") == 1
            and service is not None
            and service["metadata"]["uid"] != before
            and policy["metadata"]["labels"]["lengthwise.dev/service"] == "drift"
        )

    wait(repaired, within_s=45)
    rig.wait_ready("drift")
    assert 'repairs_total{kind="Deployment"}' in rig.metrics()


def test_a_field_that_another_adds_to_a_child_is_kept(rig: Rig, made: Made) -> None:
    made(rig.simulated("foreign"))
    rig.wait_ready("foreign")
    rig.kube("annotate", "deployment", "foreign-engine", "team.example/owner=a")
    generation = rig.kube.get("deployment", "foreign-engine")["metadata"]["generation"]
    time.sleep(6)  # time passes: the annotation triggers a reconciliation; nothing may change
    seen = rig.kube.get("deployment", "foreign-engine")["metadata"]
    assert seen["annotations"]["team.example/owner"] == "a"
    assert seen["generation"] == generation


def test_nothing_is_written_for_a_service_at_rest(rig: Rig, made: Made) -> None:
    # Needless writes load etcd, and hide the writes that matter.
    made(rig.simulated("rest"))
    rig.wait_ready("rest")
    time.sleep(5)  # time passes: the last writes of the creation

    def versions() -> list[str]:
        found = [
            rig.service("rest"),
            *(rig.kube.get(k, "rest-engine") for k in ("deployment", "service", "networkpolicy")),
        ]
        return [f["metadata"]["resourceVersion"] for f in found]

    before = versions()
    time.sleep(45)  # time passes: longer than a resync
    assert versions() == before


def test_an_operator_that_is_killed_during_a_rollout_continues_it(rig: Rig, made: Made) -> None:
    manifest = made(rig.simulated("takeover"))
    rig.wait_ready("takeover")
    uid = rig.kube.get("deployment", "takeover-engine")["metadata"]["uid"]
    manifest["spec"]["engine"]["env"] = [{"name": "CHANGED", "value": "1"}]
    rig.kube.apply(manifest)
    wait(lambda: rig.kube.get("deployment", "takeover-engine")["metadata"]["generation"] > 1)
    rig.stop_operator(signal.SIGKILL)
    manifest["spec"]["engine"]["env"] = [{"name": "CHANGED", "value": "2"}]
    rig.kube.apply(manifest)
    assert rig.ask("takeover").is_success  # requests do not pass through the operator
    rig.start_operator()
    rig.wait_ready("takeover")
    seen = rig.kube.get("deployment", "takeover-engine")
    main = seen["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "CHANGED", "value": "2"} in main["env"]
    assert seen["metadata"]["uid"] == uid


@pytest.mark.parametrize("changed", ["args", "image"])
def test_a_rolling_change_under_load_fails_no_request(rig: Rig, made: Made, changed: str) -> None:
    name = f"rolling-{changed}"
    manifest = made(rig.simulated(name, replicas=2))
    rig.wait_ready(name)
    with Load(rig, name, clients=6, tokens=40) as load:
        wait(lambda: load.answered >= 6)
        [main] = manifest["spec"]["podTemplate"]["spec"]["containers"]
        if changed == "image":
            main["image"] = main["image"] + "-next"
        else:
            main["args"] = [*main["args"], "--tokens-per-s", "60"]
        rig.kube.apply(manifest)

        def replaced() -> bool:
            status = rig.kube.get("deployment", f"{name}-engine")["status"]
            pods = rig.kube.list("pods", f"lengthwise.dev/service={name}")
            return (
                status.get("observedGeneration", 0) > 1
                and status.get("updatedReplicas") == status.get("availableReplicas") == 2
                and len(pods) == 2
            )

        wait(replaced, within_s=180)
        for pod in rig.kube.list("pods", f"lengthwise.dev/service={name}"):
            runs = next(c for c in pod["spec"]["containers"] if c["name"] == "main")
            assert runs[changed] == main[changed]
        after = load.answered
        wait(lambda: load.answered >= after + 6)
    assert load.failed == []


def test_replicas_follow_the_backlog_to_zero_and_back_without_losing_a_job(
    rig: Rig, made: Made
) -> None:
    scaling = {
        "minReplicas": 0,
        "maxReplicas": 2,
        "targetBacklogSeconds": 20,
        "scaleDownDelaySeconds": 10,
    }
    made(rig.simulated("elastic", slots=2, autoscaling=scaling))
    rig.wait_reason("elastic", "ScaledToZero")
    assert rig.replicas("elastic") == 0
    first = rig.submit("elastic", tokens=150)
    wait(lambda: rig.replicas("elastic") == 1, within_s=20)
    wait(lambda: rig.job(first)["state"] == "succeeded", within_s=90)
    # 40 jobs of 150 tokens (now the median, which is assumed for every job without a predictor),
    # 20 ms per token, 2 at a time: 60 s of work for one replica.
    jobs = [rig.submit("elastic", tokens=150) for _ in range(40)]
    wait(lambda: rig.replicas("elastic") == 2, within_s=30)
    wait(
        lambda: all(rig.job(j)["state"] == "succeeded" for j in jobs),
        within_s=180,
    )
    wait(lambda: rig.replicas("elastic") == 0, within_s=90)
    last = rig.submit("elastic", tokens=20)
    wait(lambda: rig.replicas("elastic") == 1, within_s=20)
    wait(lambda: rig.job(last)["state"] == "succeeded", within_s=90)
    events = rig.kube("describe", "llmservices.lengthwise.dev", "elastic")
    for reason in ("WokenByJob", "BacklogAboveTarget", "Idle"):
        assert reason in events
    where = f'namespace="{rig.kube.namespace}",service="elastic"'
    labels = f'llmservice="elastic",{where}'
    assert f"lengthwise_autoscaler_desired_replicas{{{labels}}} 1.0" in rig.metrics()


def test_kubectl_scale_sets_the_replicas_of_a_service_without_autoscaling(
    rig: Rig, made: Made
) -> None:
    made(rig.simulated("scaled", replicas=1))
    rig.wait_ready("scaled")
    rig.kube("scale", "llmservices.lengthwise.dev", "scaled", "--replicas=2")
    wait(lambda: rig.replicas("scaled") == 2, within_s=20)
    wait(lambda: rig.service("scaled")["status"].get("readyReplicas") == 2, within_s=90)
    assert rig.kube.get("poddisruptionbudget", "scaled-engine") is not None
    rig.kube("scale", "llmservices.lengthwise.dev", "scaled", "--replicas=1")
    wait(lambda: rig.kube.get("poddisruptionbudget", "scaled-engine") is None, within_s=20)


def test_a_deleted_service_answers_its_queued_jobs_first(rig: Rig, made: Made) -> None:
    made(rig.simulated("leaving", slots=2))
    rig.wait_ready("leaving")
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(rig.ask, "leaving", tokens=150, timeout_s=100) for _ in range(8)]
        wait(lambda: rig.kube.get("deployment", "leaving-engine") is not None)
        time.sleep(2)  # time passes: the clients have submitted their jobs
        rig.kube("delete", "llmservices.lengthwise.dev", "leaving", "--wait=false")
        answers = [a.result(timeout=120) for a in asked]
    assert [a.status_code for a in answers] == [200] * 8
    wait(lambda: rig.service("leaving") is None, within_s=60)
    wait(lambda: rig.kube.get("deployment", "leaving-engine") is None, within_s=60)
    # The garbage collector and the kubelet need over 60 s on a busy node.
    wait(lambda: not rig.kube.list("pods", "lengthwise.dev/service=leaving"), within_s=150)


def test_two_services_serve_side_by_side(rig: Rig, made: Made) -> None:
    for name in ("left", "right"):
        made(rig.simulated(name))
    for name in ("left", "right"):
        rig.wait_ready(name)
        assert rig.ask(name).json()["model"] == name


def test_the_queues_settings_follow_the_spec_without_a_restart(rig: Rig, made: Made) -> None:
    manifest = made(rig.simulated("settings", queue={"policy": "fcfs", "maxDepth": 7}))
    rig.wait_ready("settings")

    def settings() -> Any:
        return httpx.get(f"{rig.url}/v1/queues/settings", timeout=10).json()["settings"]

    assert (settings()["policy"], settings()["max_depth"]) == ("fcfs", 7)
    pods = [p["metadata"]["uid"] for p in rig.kube.list("pods", "lengthwise.dev/service=settings")]
    manifest["spec"]["queue"]["policy"] = "sjf"
    rig.kube.apply(manifest)
    wait(lambda: settings()["policy"] == "sjf", within_s=20)
    after = [p["metadata"]["uid"] for p in rig.kube.list("pods", "lengthwise.dev/service=settings")]
    assert after == pods


def test_the_rights_in_the_chart_are_enough_for_all_tests_of_this_folder(rig: Rig) -> None:
    """The operator runs with an account that has the rights of the chart's Role and no others.

    A child that it may not apply fails the tests above. This test is about what Kopf watches.
    """
    log = (rig.folder / "operator.log").read_text()
    assert [line for line in log.splitlines() if "forbidden" in line.lower()] == []
