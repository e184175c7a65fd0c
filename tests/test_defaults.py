"""Every default has one source; the copies that cannot import it, or need not, are equal to it.

The source is `lengthwise_contract.defaults` and the field defaults of `QueueSettings`.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lengthwise_cli.commands.up import up
from lengthwise_cli.local.settings import StackSettings
from lengthwise_contract import defaults
from lengthwise_contract.jobs import JobRequest
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.reproductions.ssjf import queues as ssjf_queues
from lengthwise_lab.simulator import policies
from lengthwise_operator.llmservice.fields import seconds
from lengthwise_operator.settings import OperatorSettings
from lengthwise_predictor.settings import PredictorSettings
from lengthwise_queue.admission.job_options import JobOptions
from lengthwise_queue.prediction.quality import WINDOWS
from lengthwise_queue.settings import Settings as QueueServiceSettings
from lengthwise_store.settings import StoreSettings
from lengthwise_worker.settings import Settings as WorkerSettings

ROOT = Path(__file__).parents[1]
QUEUE = QueueSettings()


def field(model: Any, name: str) -> Any:
    return model.model_fields[name].default


def at(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree[name]
    return tree


# ------------------------------------------------------------------------------- what imports it


@pytest.mark.parametrize(
    ("found", "want"),
    [
        (StoreSettings().lease_ms, defaults.LEASE_MS),
        (StoreSettings().beat_ms, defaults.BEAT_MS),
        (StoreSettings().tick_ms, defaults.TICK_MS),
        (StoreSettings().worker_ttl_ms, defaults.WORKER_TTL_MS),
        (StoreSettings().durability_replicas, defaults.DURABILITY_REPLICAS),
        (StoreSettings().durability_timeout_ms, defaults.DURABILITY_TIMEOUT_MS),
        (field(WorkerSettings, "lease_ms"), defaults.LEASE_MS),
        (field(WorkerSettings, "beat_ms"), defaults.BEAT_MS),
        (field(WorkerSettings, "tick_ms"), defaults.TICK_MS),
        (field(WorkerSettings, "durability"), StoreSettings().durability),
        (field(WorkerSettings, "durability_replicas"), defaults.DURABILITY_REPLICAS),
        (field(WorkerSettings, "durability_timeout_ms"), defaults.DURABILITY_TIMEOUT_MS),
        (field(QueueServiceSettings, "durability_timeout_ms"), defaults.DURABILITY_TIMEOUT_MS),
        (field(QueueServiceSettings, "predictor_timeout_ms"), defaults.PREDICTOR_TIMEOUT_MS),
        (field(QueueServiceSettings, "max_body_bytes"), defaults.MAX_BODY_BYTES),
        (field(QueueServiceSettings, "file_ttl_s"), defaults.FILE_TTL_S),
        (field(QueueServiceSettings, "batch_window"), defaults.BATCH_WINDOW),
        (field(QueueServiceSettings, "batch_lease_ms"), defaults.BATCH_LEASE_MS),
        (field(QueueServiceSettings, "batch_completion_s"), defaults.BATCH_COMPLETION_S),
        (field(OperatorSettings, "durability"), StoreSettings().durability),
        (field(OperatorSettings, "durability_replicas"), defaults.DURABILITY_REPLICAS),
        (field(OperatorSettings, "durability_timeout_ms"), defaults.DURABILITY_TIMEOUT_MS),
        (field(PredictorSettings, "reload_every_s"), defaults.RELOAD_EVERY_S),
        (field(JobRequest, "max_attempts"), defaults.MAX_ATTEMPTS),
        (JobOptions().max_attempts, defaults.MAX_ATTEMPTS),
        (WINDOWS[-1], defaults.ANSWERS_KEPT),
    ],
)
def test_a_service_has_the_default_of_the_contract(found: Any, want: Any) -> None:
    assert found == want


def test_a_worker_may_lose_two_heartbeats_of_its_lease() -> None:
    assert 3 * defaults.BEAT_MS <= defaults.LEASE_MS


def test_redis_keeps_as_many_answers_as_the_predictor_is_judged_by() -> None:
    script = (ROOT / "queue_service/lengthwise_store/lua/finish.lua").read_text()
    [last] = re.findall(r'"LTRIM", lengths, 0, (\d+)', script)
    assert int(last) + 1 == defaults.ANSWERS_KEPT


# ------------------------------------------------------------------------------- the CRD


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("queue.policy", QUEUE.policy),
        ("queue.overtakeFactor", QUEUE.overtake_factor),
        ("queue.overtakeWaitFactor", QUEUE.overtake_wait_factor),
        ("queue.maxDepth", QUEUE.max_depth),
        ("queue.recordRows", QUEUE.record_rows),
        ("predictor.minRankAccuracy", QUEUE.min_rank_accuracy),
    ],
)
@pytest.mark.parametrize("crd", ["crds", "charts/lengthwise/files/crds"])
def test_the_custom_resource_has_the_default_of_the_contract(
    crd: str, path: str, want: Any
) -> None:
    assert at(crd_spec(crd), path.replace(".", ".properties.") + ".default") == want


@pytest.mark.parametrize(
    ("path", "want_ms"),
    [
        ("queue.requestTTL", QUEUE.request_ttl_ms),
        ("predictor.driftWindow", QUEUE.drift_window_ms),
        ("predictor.reloadEvery", defaults.RELOAD_EVERY_S * 1000),
    ],
)
def test_a_duration_of_the_custom_resource_is_that_of_the_contract(
    path: str, want_ms: float
) -> None:
    found = at(crd_spec("crds"), path.replace(".", ".properties.") + ".default")
    assert seconds(found) * 1000 == want_ms


def test_the_classes_of_the_custom_resource_are_those_of_the_contract() -> None:
    found = at(crd_spec("crds"), "queue.properties.classes.default")
    assert [(c["name"], seconds(c["offset"]) * 1000) for c in found] == [
        (c.name, c.offset_ms) for c in QUEUE.classes
    ]


def crd_spec(folder: str) -> Any:
    crd = yaml.safe_load((ROOT / folder / "llmservices.lengthwise.dev.yaml").read_text())
    [version] = crd["spec"]["versions"]
    return at(version, "schema.openAPIV3Schema.properties.spec.properties")


# ------------------------------------------------------------------------------- the chart


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("queue.predictorTimeoutMs", defaults.PREDICTOR_TIMEOUT_MS),
        ("queue.maxBodyBytes", defaults.MAX_BODY_BYTES),
        ("queue.logLevel", field(QueueServiceSettings, "log_level")),
        # The sizes of files are smaller than the service's: the chart's own Valkey is small.
        ("queue.files.ttlSeconds", defaults.FILE_TTL_S),
        ("queue.batches.window", defaults.BATCH_WINDOW),
        ("queue.batches.leaseMs", defaults.BATCH_LEASE_MS),
        ("queue.batches.completionSeconds", defaults.BATCH_COMPLETION_S),
        ("predictor.reloadEverySeconds", defaults.RELOAD_EVERY_S),
        ("predictor.provider", field(PredictorSettings, "provider")),
        ("predictor.threads", field(PredictorSettings, "intra_op_threads")),
        ("predictor.logLevel", field(PredictorSettings, "log_level")),
        ("redis.durability.mode", StoreSettings().durability),
        ("redis.durability.replicas", defaults.DURABILITY_REPLICAS),
        ("redis.durability.timeoutMs", defaults.DURABILITY_TIMEOUT_MS),
        ("redis.tls.verify", field(WorkerSettings, "redis_tls_verify")),
    ],
)
def test_a_value_of_the_chart_is_the_default_of_the_service(path: str, want: Any) -> None:
    values = yaml.safe_load((ROOT / "charts/lengthwise/values.yaml").read_text())
    assert at(values, path) == want


# ------------------------------------------------------------------------------- lab and CLI


def test_the_lab_simulates_the_product_with_its_own_defaults() -> None:
    factors = (QUEUE.overtake_factor, QUEUE.overtake_wait_factor)
    assert factors == (policies.DEFAULT_K, policies.DEFAULT_WAIT_FACTOR)
    assert factors == (ssjf_queues.DEFAULT_K, ssjf_queues.DEFAULT_WAIT_FACTOR)
    [ours] = [p for p in policies.POLICIES.values() if p.name == policies.DEFAULT_POLICY]
    assert ours.wait_factor == QUEUE.overtake_wait_factor


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("slots", field(WorkerSettings, "slots")),
        ("context_tokens", field(WorkerSettings, "context_tokens")),
        ("batching", field(WorkerSettings, "batching")),
        ("log_level", field(WorkerSettings, "log_level")),
        ("host", field(QueueServiceSettings, "host")),
        ("port", field(QueueServiceSettings, "port")),
        # Not the service's 20 ms: on one machine the predictor shares the CPU with the LLM.
        ("predictor_timeout_ms", StackSettings.predictor_timeout_ms),
    ],
)
def test_a_flag_of_up_is_the_default_of_the_service(name: str, want: Any) -> None:
    assert inspect.signature(up).parameters[name].default == want
    assert getattr(StackSettings, name) == want


@pytest.mark.parametrize("name", ["policy", "overtake_factor", "overtake_wait_factor"])
def test_up_leaves_the_settings_of_the_queue_to_the_contract(name: str) -> None:
    assert inspect.signature(up).parameters[name].default is None
