"""The values of the chart reach the programs as settings that they have."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.chart.releases import EXTERNAL, SECURED, Object, each_set, named, of_kind, pods

from lengthwise_operator.children.worker_redis import redis_env, redis_mounts, redis_volumes
from lengthwise_operator.settings import OperatorSettings
from lengthwise_predictor.settings import PredictorSettings
from lengthwise_queue.settings import Settings as QueueServiceSettings


def test_with_an_external_redis_there_is_no_valkey_and_every_program_reads_the_users_secret(
    render: Any,
) -> None:
    objects = render(EXTERNAL)
    assert of_kind(objects, "StatefulSet", "PersistentVolumeClaim", "Secret") == []
    queue = named(objects, "Deployment", "lw-lengthwise-queue")
    env = queue["spec"]["template"]["spec"]["containers"][0]["env"]
    assert env[0]["valueFrom"]["secretKeyRef"] == {"name": "my-redis", "key": "url"}
    operator = named(objects, "Deployment", "lw-lengthwise-operator")
    env = {
        e["name"]: e.get("value")
        for e in operator["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert env["LENGTHWISE_OPERATOR_REDIS_SECRET_NAME"] == "my-redis"


def test_queue_service_and_workers_reach_a_secured_redis_in_the_same_way(render: Any) -> None:
    """The chart's templates write the one, the operator the other."""
    objects = render(SECURED)
    queue = named(objects, "Deployment", "lw-lengthwise-queue")["spec"]["template"]["spec"]
    operator = named(objects, "Deployment", "lw-lengthwise-operator")["spec"]["template"]["spec"]
    settings = {
        e["name"].removeprefix("LENGTHWISE_OPERATOR_").lower(): e.get("value")
        for e in operator["containers"][0]["env"]
    }
    redis = OperatorSettings.model_validate(settings).installation().redis
    worker = {e["name"].removeprefix("LENGTHWISE_WORKER_"): e for e in redis_env(redis)}
    wanted = {
        e["name"].removeprefix("LENGTHWISE_QUEUE_"): e
        for e in queue["containers"][0]["env"]
        if re.match("LENGTHWISE_QUEUE_(REDIS|DURABILITY)", e["name"])
    }
    assert {n: (e.get("value"), e.get("valueFrom")) for n, e in worker.items()} == {
        n: (e.get("value"), e.get("valueFrom")) for n, e in wanted.items()
    }
    assert len(wanted) == 12
    assert {m["mountPath"] for m in redis_mounts(redis)} < {
        m["mountPath"] for m in queue["containers"][0]["volumeMounts"]
    }

    def items(volumes: list[Object]) -> Object:
        return {
            v["name"]: (v["secret"]["secretName"], sorted(i["key"] for i in v["secret"]["items"]))
            for v in volumes
            if v["name"].startswith("redis")
        }

    assert items(redis_volumes(redis)) == items(queue["volumes"])
    assert items(queue["volumes"]) == {
        "redis": ("my-redis", ["password", "sentinel-password"]),
        "redis-tls": ("my-certificates", ["ca.crt", "tls.crt", "tls.key"]),
    }


def test_the_values_of_files_and_batches_reach_the_queue_service(render: Any) -> None:
    values = {
        "queue": {
            "files": {"tenantBytes": 5_000_000_000, "totalBytes": 9_000_000_000, "ttlSeconds": 60},
            "batches": {"window": 7, "leaseMs": 20_000, "completionSeconds": 3600},
        }
    }
    pod = named(render(values), "Deployment", "lw-lengthwise-queue")["spec"]["template"]["spec"]
    settings = {
        e["name"].removeprefix("LENGTHWISE_QUEUE_").lower(): e.get("value")
        for e in pod["containers"][0]["env"]
        if "REDIS" not in e["name"]
    }
    got = QueueServiceSettings.model_validate(settings)
    assert (got.tenant_file_bytes, got.total_file_bytes) == (5_000_000_000, 9_000_000_000)
    assert (got.file_ttl_s, got.batch_window, got.batch_lease_ms) == (60, 7, 20_000)
    assert got.batch_completion_s == 3600


def test_every_namespace_with_engines_gets_the_same_secret(render: Any) -> None:
    secrets = of_kind(render({"redis": {"secretNamespaces": ["a", "llm", "b"]}}), "Secret")
    assert [s["metadata"]["namespace"] for s in secrets] == ["llm", "a", "b"]
    assert len({s["stringData"]["url"] for s in secrets}) == 1


def test_the_jobs_are_never_evicted_and_are_written_to_disk(render: Any) -> None:
    config = named(render(), "ConfigMap", "lw-lengthwise-valkey")["data"]["valkey.conf"]
    lines = {line.strip() for line in config.splitlines()}
    assert {"appendonly yes", "maxmemory-policy noeviction", "appendfsync everysec"} <= lines


@each_set
def test_every_variable_of_the_chart_is_a_setting_of_its_program(
    render: Any, values: Object
) -> None:
    """A program ignores a misspelt variable silently."""
    fields = {
        "LENGTHWISE_QUEUE_": set(QueueServiceSettings.model_fields),
        "LENGTHWISE_OPERATOR_": set(OperatorSettings.model_fields),
        "LENGTHWISE_PREDICTOR_": set(PredictorSettings.model_fields),
    }
    for pod in pods(render(values)):
        for entry in pod["spec"]["containers"][0].get("env", []):
            for prefix, known in fields.items():
                if entry["name"].startswith(prefix):
                    assert entry["name"].removeprefix(prefix).lower() in known


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ({}, {}),
        ({"existingClaim": "c"}, {"MODEL_DIR": "/model"}),
        ({"existingClaim": "c", "claimPath": "/v2/"}, {"MODEL_DIR": "/model/v2"}),
        (
            {"existingClaim": "c", "models": {"org/my-llm": "mine/"}},
            {"MODELS": '{"org/my-llm":"/model/mine"}'},
        ),
        (
            {"existingClaim": "c", "claimPath": "v2", "models": {"m": "a/b"}},
            {"MODEL_DIR": "/model/v2", "MODELS": '{"m":"/model/a/b"}'},
        ),
    ],
    ids=["bundled", "claim", "folder of it", "more beside the bundled", "more"],
)
def test_the_models_of_the_shared_predictor_are_folders_of_a_claim(
    render: Any, values: Object, want: dict[str, str]
) -> None:
    made = named(render({"predictor": values}), "Deployment", "lw-lengthwise-predictor")
    env = {
        e["name"].removeprefix("LENGTHWISE_PREDICTOR_"): e["value"]
        for e in made["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert {name: env[name] for name in ("MODEL_DIR", "MODELS") if name in env} == want
    assert env["RELOAD_EVERY_S"] == "5"
    settings = PredictorSettings(
        models=json.loads(env.get("MODELS", "{}")), reload_every_s=float(env["RELOAD_EVERY_S"])
    )
    assert len(settings.models) == len(values.get("models", {}))


def test_the_grace_period_of_a_pod_is_longer_than_that_of_its_program(render: Any) -> None:
    values = {"queue": {"preStopSeconds": 7, "shutdownGraceSeconds": 300}}
    pod = named(render(values), "Deployment", "lw-lengthwise-queue")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 307


def test_the_metrics_of_the_queue_service_have_a_port_of_their_own_by_a_value(render: Any) -> None:
    on = {"monitoring": {"serviceMonitor": {"enabled": True}}, "networkPolicy": {"enabled": True}}
    made = render(on | {"queue": {"metricsPort": 9100}})
    container = named(made, "Deployment", "lw-lengthwise-queue")["spec"]["template"]["spec"][
        "containers"
    ][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8080, "metrics": 9100}
    assert {"name": "LENGTHWISE_QUEUE_METRICS_PORT", "value": "9100"} in container["env"]
    monitor = named(made, "PodMonitor", "lw-lengthwise-queue")
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    monitors = [m["metadata"]["name"] for m in made if m["kind"] == "ServiceMonitor"]
    assert monitors == ["lw-lengthwise-predictor"]
    rules = named(made, "NetworkPolicy", "lw-lengthwise-queue")["spec"]["ingress"]
    assert [rule["ports"][0]["port"] for rule in rules] == ["http", "metrics"]
    service = named(made, "Service", "lw-lengthwise-queue")
    assert [port["name"] for port in service["spec"]["ports"]] == ["http"]
    monitors = [m["metadata"]["name"] for m in render(on) if m["kind"] == "ServiceMonitor"]
    assert sorted(monitors) == ["lw-lengthwise-predictor", "lw-lengthwise-queue"]


def test_web_pages_of_other_origins_are_allowed_by_a_value(render: Any) -> None:
    def env(values: dict[str, Any]) -> dict[str, str]:
        made = named(render({"queue": values}), "Deployment", "lw-lengthwise-queue")
        variables = made["spec"]["template"]["spec"]["containers"][0]["env"]
        return {e["name"]: e["value"] for e in variables if "value" in e}

    origins = ["https://chat.example.com", "http://localhost:3000"]
    made = env({"corsOrigins": origins, "keepAliveSeconds": 400})
    assert made["LENGTHWISE_QUEUE_CORS_ORIGINS"] == ",".join(origins)
    assert made["LENGTHWISE_QUEUE_KEEP_ALIVE_S"] == "400"
    assert "LENGTHWISE_QUEUE_CORS_ORIGINS" not in env({})
