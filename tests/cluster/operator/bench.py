"""Measure the operator with 200 LLMServices: time per reconciliation, resources, API calls.

    KUBECONFIG=... python -m tests.cluster.operator.bench --services 200

The services have no replicas, so that no pods are created: this measures the operator and the API
server, not the node. The queue service and Valkey are real. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.cluster.operator.rig import ROOT, Kube, Rig, until


def main() -> int:
    """Create the services, let them rest, change one, delete them; measure each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument(
        "--rest-s", type=float, default=120, help="how long to measure them at rest, s"
    )
    options = parser.parse_args()

    kube = Kube(f"lw-bench-{int(time.time()) % 100_000}")
    kube("apply", "--validate=false", "-f", str(ROOT / "crds"))
    kube("create", "namespace", kube.namespace)
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(kube, Path(folder))
        try:
            rig.start()
            sys.stdout.write(json.dumps(_measure(rig, options), indent=2) + "\n")
        finally:
            kube("delete", "llmservices.lengthwise.dev", "--all", "--wait=false", check=False)
            until("all gone", lambda: not _names(kube), within_s=300)
            rig.stop()
            kube("delete", "namespace", kube.namespace, "--wait=false")
    return 0


def _names(kube: Any) -> list[str]:
    return str(kube("get", "llmservices.lengthwise.dev", "-o", "name")).split()


def _measure(rig: Rig, options: argparse.Namespace) -> dict[str, Any]:
    services = []
    for i in range(options.services):
        spec = {"autoscaling": {"minReplicas": 0, "maxReplicas": 2}} if i % 2 else {"replicas": 0}
        services.append(rig.simulated(f"bench-{i:03}", **spec))
    started = time.monotonic()
    rig.kube.apply({"apiVersion": "v1", "kind": "List", "items": services})
    applied_s = time.monotonic() - started

    def all_ready() -> bool:
        found = rig.kube.list("llmservices.lengthwise.dev")
        ready = [
            c
            for s in found
            for c in s.get("status", {}).get("conditions", [])
            if c["type"] == "Ready" and c["status"] == "True"
        ]
        return len(ready) == int(options.services)

    until("all ready", all_ready, within_s=300)
    ready_s = time.monotonic() - started
    time.sleep(45)  # time passes: the last events of the creation
    made = rig.metrics()
    time.sleep(options.rest_s)  # time passes: the operator at rest is measured
    rested = rig.metrics()

    change = {"spec": {"queue": {"maxDepth": 77}, "engine": {"maxNumSeqs": 8}}}
    started = time.monotonic()
    rig.kube.patch("llmservices.lengthwise.dev", "bench-000", change)

    def changed() -> bool:
        seen = rig.kube.get("deployment", "bench-000-engine")
        worker = seen["spec"]["template"]["spec"]["containers"][1]
        return bool({"name": "LENGTHWISE_WORKER_SLOTS", "value": "8"} in worker["env"])

    until("the change applied", changed, within_s=60)
    change_s = time.monotonic() - started
    reconciliations = _sum(made, "lengthwise_operator_reconcile_seconds_count")
    minutes = options.rest_s / 60
    return {
        "services": options.services,
        "kubectl_apply_s": round(applied_s, 1),
        "all_ready_s": round(ready_s, 1),
        "reconciliations_until_ready": reconciliations,
        "mean_reconciliation_ms": _mean_ms(made, None),
        "mean_reconciliation_at_rest_ms": _mean_ms(rested, made),
        "reconciliations_per_minute_at_rest": round(
            (_sum(rested, "lengthwise_operator_reconcile_seconds_count") - reconciliations)
            / minutes
        ),
        "api_calls_per_service_until_ready": round(
            _sum(made, "lengthwise_operator_api_calls_total") / options.services, 1
        ),
        "api_calls_per_minute_at_rest": round(
            (
                _sum(rested, "lengthwise_operator_api_calls_total")
                - _sum(made, "lengthwise_operator_api_calls_total")
            )
            / minutes,
            1,
        ),
        "cpu_percent_at_rest": round((_cpu_s(rested) - _cpu_s(made)) / options.rest_s * 100, 1),
        "rss_mib": round(_sum(rested, "process_resident_memory_bytes") / 2**20),
        "one_change_applied_s": round(change_s, 1),
    }


def _sum(text: str, name: str) -> float:
    """Sum of all samples of a metric."""
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.e+-]+)$", text, re.MULTILINE)
    return sum(float(value) for value in found)


def _cpu_s(text: str) -> float:
    return _sum(text, "process_cpu_seconds_total")


def _mean_ms(now: str, before: str | None) -> float:
    def of(name: str) -> float:
        metric = f"lengthwise_operator_reconcile_seconds_{name}"
        return _sum(now, metric) - (_sum(before, metric) if before else 0)

    return round(of("sum") / max(1, of("count")) * 1000, 1)


if __name__ == "__main__":
    sys.exit(main())
