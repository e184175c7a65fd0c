"""The objects of the chart are valid, restricted, and use settings that the programs have."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from lengthwise_operator.children.worker_redis import redis_env, redis_mounts, redis_volumes
from lengthwise_operator.settings import OperatorSettings
from lengthwise_predictor.settings import PredictorSettings
from lengthwise_queue.settings import Settings as QueueServiceSettings

Object = dict[str, Any]

EVERYTHING: Object = {
    "image": {"registry": "registry.example.com", "pullSecrets": [{"name": "registry"}]},
    "commonLabels": {"team": "llm"},
    "commonAnnotations": {"owner": "us"},
    "queue": {
        "replicas": 3,
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": [{"host": "llm.example.com"}],
            "tls": [{"secretName": "tls", "hosts": ["llm.example.com"]}],
        },
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
        "podAnnotations": {"a": "b"},
        "extraVolumes": [{"name": "ca", "configMap": {"name": "redis-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/redis-ca"}],
    },
    "tenants": {"existingSecret": "tenants", "adminKeySecret": "admin"},
    "predictor": {
        "replicas": 2,
        "existingClaim": "predictor-model",
        "claimPath": "v2",
        "models": {"org/my-llm": "mine/"},
        "reloadEverySeconds": 0,
    },
    "redis": {"secretNamespaces": ["a", "b"]},
    "valkey": {"persistence": {"fixPermissions": True, "keepOnUninstall": True}},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}],
        "clientsFrom": [{"podSelector": {}}],
    },
    "monitoring": {
        "namespace": "monitoring",
        "serviceMonitor": {"enabled": True, "labels": {"release": "prom"}},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}}
    ],
}
EXTERNAL: Object = {"valkey": {"enabled": False}, "redis": {"existingSecret": "my-redis"}}
SECURED: Object = {
    "valkey": {"enabled": False},
    "redis": {
        "existingSecret": "my-redis",
        "urlKey": "address",
        "username": "lengthwise",
        "passwordKey": "password",
        "sentinel": {"username": "watch", "passwordKey": "sentinel-password"},
        "tls": {
            **{"existingSecret": "my-certificates", "caKey": "ca.crt"},
            **{"certKey": "tls.crt", "keyKey": "tls.key", "verify": "ca"},
        },
        "durability": {"mode": "replica", "replicas": 2, "timeoutMs": 500},
    },
}
NAMESPACED: Object = {"operator": {"watchNamespaces": ["llm", "research"]}}
LEAST: Object = {
    "operator": {"enabled": False},
    "predictor": {"enabled": False},
    "queue": {"replicas": 1},
    "valkey": {"persistence": {"enabled": False}},
    "networkPolicy": {"enabled": False},
}
SETS = [{}, EVERYTHING, EXTERNAL, SECURED, NAMESPACED, LEAST]
NAMES = ["defaults", "everything", "external-redis", "secured-redis", "namespaced", "least"]
#: The oldest schemas that the package ships, and the newest.
VERSIONS = ["1.25", "1.37"]

each_set = pytest.mark.parametrize("values", SETS, ids=NAMES)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [o for o in objects if o["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    return next(o for o in of_kind(objects, kind) if o["metadata"]["name"] == name)


def pods(objects: list[Object]) -> list[Object]:
    return [o["spec"]["template"] for o in of_kind(objects, "Deployment", "StatefulSet")]


@each_set
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_schema_of_kubernetes(
    render: Any, values: Object, version: str
) -> None:
    for document in render(values):
        if document["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # not Kubernetes' own; see test_monitors_name_ports_that_exist
        kubernetes_validate.validate(document, version, strict=True)


@each_set
def test_every_object_has_the_labels_of_the_release(render: Any, values: Object) -> None:
    for document in render({**values, "extraObjects": []}):
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "lengthwise"
        assert labels["app.kubernetes.io/instance"] == "lw"


@pytest.mark.parametrize("name", ["lw", "lengthwise", "a" * 53])
def test_names_fit_for_every_name_of_the_release(render: Any, name: str) -> None:
    longest = max(len(o["metadata"]["name"]) for o in render(EVERYTHING, name=name))
    assert longest <= 63


@each_set
def test_every_service_selects_the_pods_of_one_workload(render: Any, values: Object) -> None:
    objects = render(values)
    for service in of_kind(objects, "Service"):
        want = service["spec"]["selector"].items()
        chosen = [p for p in pods(objects) if want <= p["metadata"]["labels"].items()]
        assert len(chosen) == 1
        ports = {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports


@each_set
def test_every_pod_meets_the_restricted_profile(render: Any, values: Object) -> None:
    for pod in pods(render(values)):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "hostPort" not in str(container["ports"])
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys()
        assert {v for volume in pod["spec"]["volumes"] for v in volume} <= {
            *("name", "emptyDir", "configMap", "secret", "persistentVolumeClaim")
        }


def test_only_fix_permissions_runs_a_container_as_root(render: Any) -> None:
    """`fixPermissions` is for hostPath volumes; no other pod may have an init container."""
    assert not any("initContainers" in pod["spec"] for pod in pods(render()))
    with_init = [p for p in pods(render(EVERYTHING)) if "initContainers" in p["spec"]]
    assert [p["metadata"]["labels"]["app.kubernetes.io/component"] for p in with_init] == ["valkey"]
    assert with_init[0]["spec"]["initContainers"][0]["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["CHOWN"],
    }


def test_pods_run_as_the_user_of_their_images(render: Any, chart_folder: Path) -> None:
    root = chart_folder.parents[1]
    files = [root / f / "Dockerfile" for f in ("operator", "queue_service", "predictor_service")]
    assert {re.search(r"^USER (.*)$", f.read_text(), re.MULTILINE)[1] for f in files} == {  # type: ignore[index]
        "10001:10001"
    }
    ours = [p["spec"]["securityContext"] for p in pods(render()) if "valkey" not in str(p)]
    assert {(s["runAsUser"], s["runAsGroup"]) for s in ours} == {(10001, 10001)}


def test_the_app_version_of_the_chart_is_the_version_of_the_distribution(
    chart_folder: Path,
) -> None:
    project = tomllib.loads((chart_folder.parents[1] / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((chart_folder / "Chart.yaml").read_text())
    assert chart["appVersion"] == project["version"]


@each_set
def test_only_the_operator_gets_a_service_account_token(render: Any, values: Object) -> None:
    for pod in pods(render(values)):
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] != "operator":
            assert pod["spec"]["automountServiceAccountToken"] is False


@each_set
def test_the_operator_has_no_wildcard_and_no_right_on_secrets_or_commands(
    render: Any, values: Object
) -> None:
    rules = [r for o in of_kind(render(values), "ClusterRole", "Role") for r in o["rules"]]
    for rule in rules:
        assert not any("*" in part for part in [*rule["apiGroups"], *rule["resources"]])
        assert not {"*", "escalate", "bind", "impersonate"} & set(rule["verbs"])
        assert not {"secrets", "pods/exec", "pods/attach", "configmaps", "nodes"} & set(
            rule["resources"]
        )


def test_the_reviewed_table_of_rights_is_the_clusterrole(render: Any, chart_folder: Path) -> None:
    page = (chart_folder.parents[1] / "docs" / "reference" / "operator.md").read_text()
    table = page.partition("## Rights")[2].partition("\n## ")[0]
    reviewed = {
        resource: set(verbs.split())
        for resource, verbs in re.findall(r"^\| ([a-z/]+) \| ([a-z ]+) \| .+ \|$", table, re.M)
        if resource != "resource"
    }
    role = named(render(), "ClusterRole", "llm-lw-lengthwise-operator")
    granted = {resource: set(r["verbs"]) for r in role["rules"] for resource in r["resources"]}
    assert granted == reviewed


def test_a_namespaced_operator_has_no_right_outside_its_namespaces(render: Any) -> None:
    objects = render(NAMESPACED)
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding") == []
    assert [r["metadata"]["namespace"] for r in of_kind(objects, "Role")] == ["llm", "research"]
    arguments = named(objects, "Deployment", "lw-lengthwise-operator")["spec"]["template"]["spec"][
        "containers"
    ][0]["args"]
    assert [a for a in arguments if "namespace" in a] == ["--namespace=llm", "--namespace=research"]


def test_a_namespaced_operator_may_list_only_the_queue_service_elsewhere(render: Any) -> None:
    objects = render({"operator": {"watchNamespaces": ["research"]}})
    [role] = [r for r in of_kind(objects, "Role") if r["metadata"].get("namespace") != "research"]
    want = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}
    assert role["rules"] == [{**want, "resourceNames": ["lw-lengthwise-queue"]}]
    container = named(objects, "Deployment", "lw-lengthwise-operator")["spec"]["template"]["spec"][
        "containers"
    ][0]
    env = {e["name"]: e.get("value") for e in container["env"]}
    assert env["LENGTHWISE_OPERATOR_QUEUE_DEPLOYMENT"] == "llm/lw-lengthwise-queue"


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"qeueu": {}}, "qeueu"),
        ({"queue": {"replicas": 0}}, "replicas"),
        ({"predictor": {"models": {"m": "mine"}}}, "existingClaim"),
        ({"predictor": {"reloadEverySeconds": -1}}, "reloadEverySeconds"),
        ({"valkey": {"enabled": False}}, "redis"),
        ({"valkey": {"appendfsync": "sometimes"}}, "appendfsync"),
        ({"networkPolicy": {"metricsFrom": [{"namespace": "monitoring"}]}}, "metricsFrom"),
        ({"monitoring": {"prometheusRule": {"rules": {"X": {"fro": "1m"}}}}}, "fro"),
        ({"redis": {"durability": {"mode": "never"}}}, "durability"),
        ({"redis": {"durability": {"mode": "replica"}}}, "a Redis with replicas"),
        ({"redis": {"durability": {"mode": "always"}}}, "appendfsync=always"),
        ({"redis": {"tls": {"existingSecret": "mine"}}}, "your own Redis"),
        ({**EXTERNAL, "redis": {"existingSecret": "r", "tls": {"certKey": "c"}}}, "go together"),
        (
            {**EXTERNAL, "redis": {"existingSecret": "r", "tls": {"certKey": "c", "keyKey": "k"}}},
            "which is not set",
        ),
    ],
    ids=[
        *(
            "unknown",
            "too-few",
            "models-without-a-claim",
            "negative-interval",
            "no-redis-at-all",
            "not-a-choice",
            "not-a-peer",
            "typo-in-a-rule",
        ),
        *("no-such-durability", "no-replicas", "no-fsync", "tls-of-the-charts-own", "half-a-pair"),
        "no-secret-for-the-pair",
    ],
)
def test_invalid_values_are_refused_with_their_name(
    render: Any, values: Object, message: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=message):
        render(values)


def test_api_keys_without_one_for_the_operator_are_refused(render: Any) -> None:
    with pytest.raises(helm_python.HelmError, match="adminKeySecret is needed"):
        render({"tenants": {"existingSecret": "tenants"}})


def test_helm_lint_finds_nothing(chart_folder: Path) -> None:
    found = helm_python.lint(str(chart_folder))
    # Helm recommends an icon with severity 1, which is not a warning.
    assert [m for m in found["messages"] if m["severity"] > 1] == []
    assert found["errors"] == []


def test_every_value_is_in_the_schema(chart_folder: Path) -> None:
    """values.yaml and values.schema.json are two copies; this holds them equal."""
    values = yaml.safe_load((chart_folder / "values.yaml").read_text())
    schema = yaml.safe_load((chart_folder / "values.schema.json").read_text())

    def compare(value: Any, part: Object, path: str) -> None:
        if not isinstance(value, dict) or "properties" not in part:
            return
        missing = {k for k in part["properties"] if k not in value} - {"global"}
        if path.split(".")[-1] not in ("resources", "image"):
            assert missing == set(), f"{path}: in the schema and not in values.yaml"
        for key, child in value.items():
            assert key in part["properties"], f"{path}.{key} is not in the schema"
            compare(child, part["properties"][key], f"{path}.{key}")

    compare(values, schema, "")


def test_the_charts_copy_of_the_crd_is_its_source(chart_folder: Path) -> None:
    copies = {p.name: p.read_text() for p in (chart_folder / "files" / "crds").glob("*.yaml")}
    source = chart_folder.parents[1] / "crds"
    assert copies == {p.name: p.read_text() for p in source.glob("*.yaml")}
    assert copies


def test_the_crd_is_rendered_whole_and_kept_on_uninstall(render: Any, chart_folder: Path) -> None:
    (got,) = of_kind(render(), "CustomResourceDefinition")
    (path,) = (chart_folder.parents[1] / "crds").glob("*.yaml")
    want = yaml.safe_load(path.read_text())
    assert got["spec"] == want["spec"]
    assert got["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert of_kind(render({"crds": {"install": False}}), "CustomResourceDefinition") == []


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_notes_name_the_service_that_exists(chart_folder: Path, values: Object) -> None:
    with helm_python.Chart.load(chart_folder) as chart:
        texts = chart.render(values, name="lw", namespace="llm")
    notes = next(t for path, t in texts.items() if path.endswith("NOTES.txt"))
    assert "/v1/chat/completions" in notes
    assert "llmservices.lengthwise.dev" in notes
    if not values:
        assert "svc/lw-lengthwise-queue 8080:80" in notes
    else:
        assert "URL=https://llm.example.com" in notes
    manifest = re.search(r"<<'EOF'\n(.*?)\nEOF\n", notes, re.DOTALL)
    assert manifest is not None
    assert yaml.safe_load(manifest[1])["kind"] == "LLMService"


def test_monitors_name_ports_that_exist(render: Any) -> None:
    """A monitor that matches nothing scrapes nothing, without an error."""
    objects = render(EVERYTHING)
    for monitor in of_kind(objects, "ServiceMonitor"):
        want = monitor["spec"]["selector"]["matchLabels"].items()
        services = [
            s for s in of_kind(objects, "Service") if want <= s["metadata"]["labels"].items()
        ]
        assert len(services) == 1
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {p["name"] for p in services[0]["spec"]["ports"]}
        assert {"action": "labeldrop", "regex": "service"} in endpoint["relabelings"]
    for monitor in of_kind(objects, "PodMonitor"):
        # The operator's metrics have the `namespace` of an LLMService, which takes precedence.
        assert all(e["honorLabels"] for e in monitor["spec"]["podMetricsEndpoints"])
        want = monitor["spec"]["selector"]["matchLabels"].items()
        chosen = [p for p in pods(objects) if want <= p["metadata"]["labels"].items()]
        ports = {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}
        assert {e["port"] for e in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_network_policies_name_ports_that_exist(render: Any) -> None:
    objects = render(EVERYTHING)
    policies = of_kind(objects, "NetworkPolicy")
    assert len(policies) == 4
    for policy in policies:
        want = policy["spec"]["podSelector"]["matchLabels"].items()
        chosen = [p for p in pods(objects) if want <= p["metadata"]["labels"].items()]
        assert len(chosen) == 1
        ports = {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}
        assert {p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]} <= ports
