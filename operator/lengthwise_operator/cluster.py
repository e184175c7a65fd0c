"""All that the operator says to the Kubernetes API, watches apart (those are Kopf's).

Blocking, because the official client is; `rounds.py` calls it in threads.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import urllib3
from kubernetes import client, config, dynamic
from kubernetes.client import ApiException

from lengthwise_operator.errors import Refused, Unreachable
from lengthwise_operator.metrics import Metrics
from lengthwise_operator.observed import Body
from lengthwise_operator.service import API_VERSION, FIELD_MANAGER, KIND, Apis

log = logging.getLogger(__name__)

#: Connecting, and the whole answer, s. A call without a limit would stop one service for ever.
_TIMEOUT_S = (5, 20)

#: Statuses that mean "later": too many requests, and everything on the server's side.
_LATER = frozenset({0, 429, 500, 502, 503, 504})

#: kind -> apiVersion and plural. The client's own discovery is not used: it is not safe in threads
#: (its cache vanishes under the feet of the second), and these names never change.
_KINDS = {
    "Deployment": ("apps/v1", "deployments"),
    "Service": ("v1", "services"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "PodMonitor": ("monitoring.coreos.com/v1", "podmonitors"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "Event": ("v1", "events"),
    KIND: (API_VERSION, "llmservices"),
}


class Cluster:
    """One API server, with credentials from the pod or from KUBECONFIG."""

    def __init__(self, metrics: Metrics) -> None:
        """Connects to nothing yet.

        Raises:
            Unreachable: There are no credentials.
        """
        try:
            config.load_incluster_config()
        except config.ConfigException:
            try:
                config.load_kube_config()
            except config.ConfigException as exc:
                raise Unreachable(
                    "no credentials for a cluster: run in a pod, or set KUBECONFIG"
                ) from exc
        self._metrics = metrics
        self._client = dynamic.DynamicClient(client.ApiClient(), discoverer=_NoDiscovery)
        self._pdb_version = ""

    def apis(self) -> Apis:
        """What this API server offers.

        Raises:
            Refused, Unreachable: See there.
        """
        self._pdb_version = next(
            (v for v in ("policy/v1", "policy/v1beta1") if self._offers(v, "PodDisruptionBudget")),
            "",
        )
        return Apis(
            pdb_version=self._pdb_version,
            pod_monitors=self._offers(_KINDS["PodMonitor"][0], "PodMonitor"),
        )

    def apply(self, manifest: dict[str, Any]) -> Body:
        """Server-side apply, ours whoever wrote it last; the object as it is then.

        Raises:
            Refused: The API server says no; the message is its own.
            Unreachable: See there.
        """
        kind, meta = manifest["kind"], manifest["metadata"]
        done: Body = self._call(
            "apply",
            "patch",
            kind,
            _path(kind, meta["namespace"], meta["name"], version=manifest["apiVersion"]),
            body=manifest,
            content_type="application/apply-patch+yaml",
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
        )
        return done

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete a child; that it is gone already is fine.

        Raises:
            Refused, Unreachable: See there.
        """
        version = self._pdb_version if kind == "PodDisruptionBudget" else None
        self._call("delete", "delete", kind, _path(kind, namespace, name, version=version))

    def write_status(self, namespace: str, name: str, status: dict[str, Any]) -> None:
        """Merge into the status of an LLMService; that it is gone already is fine.

        Raises:
            Refused, Unreachable: See there.
        """
        self._call(
            "status",
            "patch",
            KIND,
            _path(KIND, namespace, name) + "/status",
            body={"status": status},
            content_type="application/merge-patch+json",
            field_manager=FIELD_MANAGER,
        )

    def claim(self, namespace: str, name: str) -> Body | None:
        """A PersistentVolumeClaim that is not ours, or None.

        Raises:
            Refused, Unreachable: See there.
        """
        kind = "PersistentVolumeClaim"
        found: Body | None = self._call("get", "get", kind, _path(kind, namespace, name))
        return found

    def deployment(self, namespace: str, name: str) -> Body | None:
        """A Deployment that is not ours, or None.

        Raises:
            Refused, Unreachable: See there.
        """
        # A list of one: the operator may list Deployments, and fetch none by its name.
        found = self._call(
            "list",
            "get",
            "Deployment",
            _path("Deployment", namespace),
            field_selector=f"metadata.name={name}",
        )
        items: list[Body] = found["items"] if found else []
        return items[0] if items else None

    def warnings(self, namespace: str, pod_uid: str) -> list[Body]:
        """The events of type Warning about a pod, newest first.

        Raises:
            Refused, Unreachable: See there.
        """
        found = self._call(
            "list",
            "get",
            "Event",
            _path("Event", namespace),
            field_selector=f"involvedObject.uid={pod_uid},type=Warning",
        )
        events: list[Body] = found["items"] if found else []
        return sorted(events, key=lambda e: str(e.get("lastTimestamp")), reverse=True)

    # ------------------------------------------------------------------

    def _offers(self, version: str, kind: str) -> bool:
        found = self._call("discover", "get", kind, f"/apis/{version}")
        return found is not None and any(r["kind"] == kind for r in found["resources"])

    def _call(self, verb: str, method: str, kind: str, path: str, **how: Any) -> Any:
        """The answer; None: there is no such thing."""
        outcome = "ok"
        try:
            answer = self._client.request(
                method, path, serialize=False, _request_timeout=_TIMEOUT_S, **how
            )
            return json.loads(answer.data)
        except ApiException as exc:
            # An apply makes what is not there, so its 404 is about something else.
            if exc.status == 404 and verb != "apply":
                return None
            outcome = "later" if exc.status in _LATER else "refused"
            if exc.status in _LATER:
                raise Unreachable(
                    f"the Kubernetes API answered {exc.status}: {_message(exc)}"
                ) from exc
            raise Refused(_message(exc)) from exc
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            outcome = "unreachable"
            raise Unreachable(f"the Kubernetes API does not answer: {exc}") from exc
        finally:
            self._metrics.api_calls.labels(verb, kind, outcome).inc()


class _NoDiscovery:
    """In the place of the client's discovery; see `_KINDS`."""

    def __init__(self, *_: Any) -> None: ...


def _path(kind: str, namespace: str, name: str = "", *, version: str | None = None) -> str:
    usual, plural = _KINDS[kind]
    group = version or usual
    root = f"/apis/{group}" if "/" in group else f"/api/{group}"
    return f"{root}/namespaces/{namespace}/{plural}/{name}".rstrip("/")


def _message(exc: ApiException) -> str:
    """What the API server said, without the wrapping."""
    try:
        body = json.loads(exc.body or "")
    except ValueError:
        return f"{exc.status} {exc.reason}"
    return str(body.get("message") or exc.reason)
