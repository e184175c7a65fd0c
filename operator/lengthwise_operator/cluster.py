"""All that the operator says to the Kubernetes API, watches apart (those are Kopf's).

Blocking, because the official client is; `rounds.py` calls it in threads.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config, dynamic
from kubernetes.client import ApiException
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from lengthwise_operator.errors import Refused, Unreachable
from lengthwise_operator.metrics import Metrics
from lengthwise_operator.observed import Body
from lengthwise_operator.service import API_VERSION, FIELD_MANAGER, KIND, Apis

log = logging.getLogger(__name__)

#: Connecting, and the whole answer, s. A call without a limit would stop one service for ever.
_TIMEOUT_S = (5, 20)

#: Statuses that mean "later": too many requests, and everything on the server's side.
_LATER = frozenset({0, 429, 500, 502, 503, 504})

#: kind -> apiVersion, of the children whose version is the same everywhere.
_VERSIONS = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "PersistentVolumeClaim": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "Event": "v1",
    KIND: API_VERSION,
}

T = TypeVar("T")


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
        self._dynamic: Any = None
        self._pdb_version = ""

    def apis(self) -> Apis:
        """What this API server offers.

        Raises:
            Unreachable: It does not answer.
        """
        self._pdb_version = next(
            (v for v in ("policy/v1", "policy/v1beta1") if self._offers(v, "PodDisruptionBudget")),
            "",
        )
        return Apis(
            pdb_version=self._pdb_version,
            pod_monitors=self._offers(_VERSIONS["PodMonitor"], "PodMonitor"),
        )

    def apply(self, manifest: dict[str, Any]) -> Body:
        """Server-side apply, ours whoever wrote it last; the object as it is then.

        Raises:
            Refused: The API server says no; the message is its own.
            Unreachable: See there.
        """
        kind, meta = manifest["kind"], manifest["metadata"]

        def call() -> Body:
            resource = self._resource(manifest["apiVersion"], kind)
            done = self._client().server_side_apply(
                resource,
                body=manifest,
                name=meta["name"],
                namespace=meta["namespace"],
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
                _request_timeout=_TIMEOUT_S,
            )
            return _plain(done)

        return self._counted("apply", kind, call)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete a child; that it is gone already is fine.

        Raises:
            Refused, Unreachable: See there.
        """
        version = self._pdb_version if kind == "PodDisruptionBudget" else _VERSIONS[kind]

        def call() -> None:
            try:
                self._resource(version, kind).delete(
                    name=name, namespace=namespace, _request_timeout=_TIMEOUT_S
                )
            except ApiException as exc:
                if exc.status != 404:
                    raise

        self._counted("delete", kind, call)

    def write_status(self, namespace: str, name: str, status: dict[str, Any]) -> None:
        """Merge into the status of an LLMService; that it is gone already is fine.

        Raises:
            Refused, Unreachable: See there.
        """

        def call() -> None:
            try:
                self._resource(API_VERSION, KIND).status.patch(
                    name=name,
                    namespace=namespace,
                    body={"status": status},
                    content_type="application/merge-patch+json",
                    field_manager=FIELD_MANAGER,
                    _request_timeout=_TIMEOUT_S,
                )
            except ApiException as exc:
                if exc.status != 404:
                    raise

        self._counted("status", KIND, call)

    def claim(self, namespace: str, name: str) -> Body | None:
        """A PersistentVolumeClaim that is not ours, or None.

        Raises:
            Refused, Unreachable: See there.
        """

        def call() -> Body | None:
            try:
                found = self._resource("v1", "PersistentVolumeClaim").get(
                    name=name, namespace=namespace, _request_timeout=_TIMEOUT_S
                )
            except ApiException as exc:
                if exc.status == 404:
                    return None
                raise
            return _plain(found)

        return self._counted("get", "PersistentVolumeClaim", call)

    def warnings(self, namespace: str, pod_uid: str) -> list[Body]:
        """The events of type Warning about a pod, newest first.

        Raises:
            Refused, Unreachable: See there.
        """

        def call() -> list[Body]:
            found = self._resource("v1", "Event").get(
                namespace=namespace,
                field_selector=f"involvedObject.uid={pod_uid},type=Warning",
                _request_timeout=_TIMEOUT_S,
            )
            events: list[Body] = _plain(found)["items"]
            return sorted(events, key=lambda e: str(e.get("lastTimestamp")), reverse=True)

        return self._counted("list", "Event", call)

    # ------------------------------------------------------------------

    def _client(self) -> Any:
        if self._dynamic is None:
            self._dynamic = dynamic.DynamicClient(client.ApiClient())
        return self._dynamic

    def _resource(self, version: str, kind: str) -> Any:
        try:
            return self._client().resources.get(api_version=version, kind=kind)
        except ResourceNotFoundError as exc:
            raise Refused(f"this cluster has no {kind} of {version}") from exc

    def _offers(self, version: str, kind: str) -> bool:
        def call() -> bool:
            try:
                self._client().resources.get(api_version=version, kind=kind)
            except ResourceNotFoundError:
                return False
            return True

        return self._counted("discover", kind, call)

    def _counted(self, verb: str, kind: str, call: Callable[[], T]) -> T:
        outcome = "ok"
        try:
            return call()
        except ApiException as exc:
            outcome = "later" if exc.status in _LATER else "refused"
            message = _message(exc)
            if exc.status in _LATER:
                raise Unreachable(f"the Kubernetes API answered {exc.status}: {message}") from exc
            raise Refused(message) from exc
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            outcome = "unreachable"
            raise Unreachable(f"the Kubernetes API does not answer: {exc}") from exc
        finally:
            self._metrics.api_calls.labels(verb, kind, outcome).inc()


def _plain(found: Any) -> dict[str, Any]:
    plain: dict[str, Any] = found.to_dict()
    return plain


def _message(exc: ApiException) -> str:
    """What the API server said, without the wrapping."""
    try:
        body = json.loads(exc.body or "")
    except ValueError:
        return f"{exc.status} {exc.reason}"
    return str(body.get("message") or exc.reason)
