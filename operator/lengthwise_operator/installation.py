"""Facts that all services of one installation share. Pure.

`settings.py` builds an Installation from the environment; the planner and the children read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lengthwise_contract.defaults import DURABILITY_REPLICAS, DURABILITY_TIMEOUT_MS

DurabilityMode = Literal["async", "replica", "always"]
TlsVerifyMode = Literal["full", "ca", "none"]


@dataclass(frozen=True, kw_only=True)
class WorkerRedis:
    """Names of the Secrets, and of their keys, with which the workers reach Redis; "": not used.

    The Secrets are in the LLMService's namespace. The operator reads none of them. What the
    settings mean: docs/operate/redis.md, docs/operate/guarantees.md.

    Attributes:
        secret_name: The Secret with the URL and the passwords.
        url_key: Key of the URL.
        username: ACL user; "": the user in the URL.
        password_key: Key of its password; "": the password in the URL.
        sentinel_username: ACL user at the Sentinels.
        sentinel_password_key: Key of that password.
        tls_secret_name: The Secret with certificates, PEM; "": the system's CAs are trusted.
        tls_ca_key: Key of the CAs to trust.
        tls_cert_key: Key of the client certificate.
        tls_key_key: Key of the client certificate's private key.
        tls_verify: What is checked of the server's certificate.
        durability: What an acknowledged write survives; as in the queue service.
        durability_replicas: With `replica`: how many replicas must confirm.
        durability_timeout_ms: Longest wait for a confirmation, ms.
    """

    secret_name: str
    url_key: str
    username: str = ""
    password_key: str = ""
    sentinel_username: str = ""
    sentinel_password_key: str = ""
    tls_secret_name: str = ""
    tls_ca_key: str = ""
    tls_cert_key: str = ""
    tls_key_key: str = ""
    tls_verify: TlsVerifyMode = "full"
    durability: DurabilityMode = "async"
    durability_replicas: int = DURABILITY_REPLICAS
    durability_timeout_ms: int = DURABILITY_TIMEOUT_MS


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Facts that all services of one installation share, from the operator's settings.

    Attributes:
        queue_url: Base URL of the queue service, inside the cluster.
        queue_deployment: namespace/name of the queue service's Deployment; "": not known.
        public_url: Base URL for OpenAI clients, with /v1; written to `status.url`.
        predictor_url: Base URL of the shared predictor; "": there is none.
        worker_image: Image of the worker beside each engine.
        predictor_image: Image of the predictors that the operator starts.
        image_pull_policy: Pull policy of both images.
        image_pull_secrets: Names of the pull secrets of every pod.
        redis: How the workers reach Redis.
        metrics_namespace: Namespace whose pods may scrape the engines; "": none.
        allowed_urls: Beginnings of URLs that every LLMService may use as engine.url and
            predictor.url.
    """

    queue_url: str
    queue_deployment: str
    public_url: str
    predictor_url: str
    worker_image: str
    predictor_image: str
    image_pull_policy: str
    image_pull_secrets: tuple[str, ...]
    redis: WorkerRedis
    metrics_namespace: str
    allowed_urls: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Apis:
    """The optional APIs that this API server offers.

    Attributes:
        pdb_version: apiVersion of PodDisruptionBudget; "": the server has none.
        pdb_unhealthy: Whether a budget may let unready pods be evicted (Kubernetes 1.27).
        pod_monitors: Whether PodMonitors of the Prometheus operator exist.
    """

    pdb_version: str
    pod_monitors: bool
    pdb_unhealthy: bool = False
