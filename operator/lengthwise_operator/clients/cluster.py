"""Calls of the Kubernetes API. Kopf makes the watches.

The calls block, because the official client does; callers run them in threads.
"""

from __future__ import annotations

import json
import logging
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
            pod_monitors=self._offers(_KINDS["PodMonitor"][0], "PodMonitor"),
        )

    def apply(self, manifest: dict[str, Any]) -> Body:
        """Send a manifest by server-side apply, overriding other writers of its fields.

        Returns:
            The object as the server stored it.

        Raises:
            Refused: The API server refuses it; the message is the server's.
            Unreachable: As in `errors.py`.
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
        """Delete a child; a child that does not exist is no error.

        Raises:
            Refused, Unreachable: As in `errors.py`.
        """
        version = self._pdb_version if kind == "PodDisruptionBudget" else None
        self._call("delete", "delete", kind, _path(kind, namespace, name, version=version))

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

    def claim(self, namespace: str, name: str) -> Body | None:
        """Get a PersistentVolumeClaim; None: it does not exist.

        Raises:
            Refused, Unreachable: As in `errors.py`.
        """
        kind = "PersistentVolumeClaim"
        found: Body | None = self._call("get", "get", kind, _path(kind, namespace, name))
        return found

    def deployment(self, namespace: str, name: str) -> Body | None:
        """Get a Deployment; None: it does not exist.

        Raises:
            Refused, Unreachable: As in `errors.py`.
        """
        # A list of one: the operator has the right to list Deployments, not to get one by name.
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
    """Replaces the client's discovery; see `_KINDS`."""

    def __init__(self, *_: Any) -> None: ...


def _path(kind: str, namespace: str, name: str = "", *, version: str | None = None) -> str:
    usual, plural = _KINDS[kind]
    group = version or usual
    root = f"/apis/{group}" if "/" in group else f"/api/{group}"
    return f"{root}/namespaces/{namespace}/{plural}/{name}".rstrip("/")


def _message(exc: ApiException) -> str:
    """Extract the message of the API server from its answer."""
    try:
        body = json.loads(exc.body or "")
    except ValueError:
        return f"{exc.status} {exc.reason}"
    return str(body.get("message") or exc.reason)
