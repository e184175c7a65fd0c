"""Calls of the Kubernetes API. Kopf makes the watches.

The calls block, because the official client does; callers run them in threads.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import urllib3
from kubernetes import client, config, dynamic
from kubernetes.client import ApiException

from lengthwise_operator.errors import Refused, Unreachable
from lengthwise_operator.installation import Apis
from lengthwise_operator.llmservice.names import API_VERSION, FIELD_MANAGER, KIND, PLURAL
from lengthwise_operator.metrics import OperatorMetrics
from lengthwise_operator.observed import Body

log = logging.getLogger(__name__)

#: Time limits for the connection and for the whole answer, s. A call without a limit could block
#: one service for ever.
_TIMEOUT_S = (5, 20)

#: Statuses after which a call is tried again: too many requests, and failures of the server.
_LATER = frozenset({0, 429, 500, 502, 503, 504})

#: Words in the message of a 500 that is not about the manifest.
_TROUBLE = (
    "etcd",
    "timeout",
    "timed out",
    "deadline",
    "connection",
    "webhook",
    "leader",
    "context",
)

#: kind -> apiVersion and plural. The client's own discovery is not used, because it is not safe in
#: threads (one thread deletes the cache that another reads), and these names never change.
_KINDS = {
    "Deployment": ("apps/v1", "deployments"),
    "Service": ("v1", "services"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "PodMonitor": ("monitoring.coreos.com/v1", "podmonitors"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "Event": ("v1", "events"),
    KIND: (API_VERSION, PLURAL),
}


class Cluster:
    """Client of one API server, with credentials from the pod or from KUBECONFIG."""

    def __init__(self, metrics: OperatorMetrics) -> None:
        """Load the credentials; connect to nothing yet.

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
        """Find out which optional APIs the server offers.

        Raises:
            Refused, Unreachable: As in `errors.py`.
        """
        self._pdb_version = next(
            (v for v in ("policy/v1", "policy/v1beta1") if self._offers(v, "PodDisruptionBudget")),
            "",
        )
        return Apis(
            pdb_version=self._pdb_version,
            pdb_unhealthy=self._server_version() >= (1, 27),
            pod_monitors=self._offers(_KINDS["PodMonitor"][0], "PodMonitor"),
        )

    def find(self, kind: str, namespace: str, name: str) -> Body | None:
        """Get a child by name; None: it does not exist.

        Raises:
            Refused, Unreachable: As in `errors.py`.
        """
        # A list of one: the operator has the right to list children, not to get one by name.
        version = self._pdb_version if kind == "PodDisruptionBudget" else None
        found = self._call(
            "list",
            "get",
            kind,
            _path(kind, namespace, version=version),
            field_selector=f"metadata.name={name}",
        )
        items: list[Body] = found["items"] if found else []
        # A list of objects does not repeat the kind in each of them.
        return {**items[0], "kind": kind} if items else None

    def apply(self, manifest: dict[str, Any], uid: str | None) -> Body:
        """Send a manifest by server-side apply.

        Args:
            manifest: The whole object.
            uid: UID of the existing object, whose other writers are overridden; None: there is no
                object, and if one has been created since then it is not overridden.

        Returns:
            The object as the server stored it.

        Raises:
            Refused: The API server refuses it; the message is the server's.
            Unreachable: As in `errors.py`.
        """
        kind, meta = manifest["kind"], manifest["metadata"]
        if uid is not None:
            manifest = {**manifest, "metadata": {**meta, "uid": uid}}
        done: Body = self._call(
            "apply",
            "patch",
            kind,
            _path(kind, meta["namespace"], meta["name"], version=manifest["apiVersion"]),
            body=manifest,
            content_type="application/apply-patch+yaml",
            field_manager=FIELD_MANAGER,
            force_conflicts=uid is not None,
        )
        return done

    def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        """Set the replicas of a Deployment; one that does not exist is no error.

        Raises:
            Refused, Unreachable: As in `errors.py`.
        """
        self._call(
            "scale",
            "patch",
            "Deployment",
            _path("Deployment", namespace, deployment),
            body={"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
            field_manager=FIELD_MANAGER,
        )

    def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete a child; one that does not exist, or has another UID by now, is no error.

        Raises:
            Refused, Unreachable: As in `errors.py`.
        """
        version = self._pdb_version if kind == "PodDisruptionBudget" else None
        try:
            self._call(
                "delete",
                "delete",
                kind,
                _path(kind, namespace, name, version=version),
                body={"preconditions": {"uid": uid}},
            )
        except Refused as exc:
            if exc.status != 409:
                raise

    def write_status(self, namespace: str, name: str, status: dict[str, Any]) -> None:
        """Merge into the status of an LLMService; one that does not exist is no error.

        Raises:
            Refused, Unreachable: As in `errors.py`.
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

    def warnings(self, namespace: str, pod_uid: str) -> list[Body]:
        """List the events of type Warning about a pod, newest first.

        Raises:
            Refused, Unreachable: As in `errors.py`.
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

    def _server_version(self) -> tuple[int, int]:
        found = self._call("discover", "get", KIND, "/version") or {}
        # Some vendors write "27+".
        major, minor = (re.match("[0-9]*", str(found.get(k, ""))) for k in ("major", "minor"))
        return int((major and major[0]) or 0), int((minor and minor[0]) or 0)

    def _offers(self, version: str, kind: str) -> bool:
        found = self._call("discover", "get", kind, f"/apis/{version}")
        return found is not None and any(r["kind"] == kind for r in found["resources"])

    def _call(self, verb: str, method: str, kind: str, path: str, **how: Any) -> Any:
        """Make one call; return the parsed answer, or None if there is no such object."""
        outcome = "ok"
        try:
            answer = self._client.request(
                method, path, serialize=False, _request_timeout=_TIMEOUT_S, **how
            )
            return json.loads(answer.data)
        except ApiException as exc:
            # An apply creates a missing object, so its 404 is about something else.
            if exc.status == 404 and verb != "apply":
                return None
            message = _message(exc)
            later = exc.status in _LATER and not (verb == "apply" and _is_about(exc, message))
            outcome = "later" if later else "refused"
            if later:
                raise Unreachable(f"the Kubernetes API answered {exc.status}: {message}") from exc
            raise Refused(message, exc.status) from exc
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            outcome = "unreachable"
            raise Unreachable(f"the Kubernetes API does not answer: {exc}") from exc
        finally:
            self._metrics.api_calls.labels(verb, kind, outcome).inc()


class _NoDiscovery:
    """Replaces the client's discovery; see `_KINDS`."""

    def __init__(self, *_: Any) -> None: ...


def _path(kind: str, namespace: str, name: str = "", *, version: str | None = None) -> str:
    usual, plural = _KINDS[kind]
    group = version or usual
    root = f"/apis/{group}" if "/" in group else f"/api/{group}"
    return f"{root}/namespaces/{namespace}/{plural}/{name}".rstrip("/")


def _is_about(exc: ApiException, message: str) -> bool:
    """Whether a failure of an apply is about the manifest: a retry of the same would fail again.

    The API server answers 500 to a field that does not exist, to a value of the wrong type and to a
    malformed quantity. The same status is that of a store without a leader.
    """
    return exc.status == 500 and not any(text in message for text in _TROUBLE)


def _message(exc: ApiException) -> str:
    """Extract the message of the API server from its answer."""
    try:
        body = json.loads(exc.body or "")
    except ValueError:
        return f"{exc.status} {exc.reason}"
    return str(body.get("message") or exc.reason)
