"""Settings of the operator's process, from the environment (`LENGTHWISE_OPERATOR_*`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from lengthwise_contract.defaults import DURABILITY_REPLICAS, DURABILITY_TIMEOUT_MS
from lengthwise_operator.installation import (
    DurabilityMode,
    Installation,
    TlsVerifyMode,
    WorkerRedis,
)


class OperatorSettings(BaseSettings):
    """Each field is one environment variable: `queue_url` is `LENGTHWISE_OPERATOR_QUEUE_URL`."""

    model_config = SettingsConfigDict(
        env_prefix="LENGTHWISE_OPERATOR_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    queue_url: str = Field(
        min_length=1, description="Base URL of the queue service, as pods reach it"
    )
    queue_api_key: SecretStr | None = Field(
        default=None, description="Admin key of the queue service; none: it requires none"
    )
    queue_deployment: str = Field(
        default="",
        pattern=r"^([^/]+/[^/]+)?$",
        description="NAMESPACE/NAME of the queue service's Deployment: no worker is replaced "
        "during its rollout; empty: workers do not wait",
    )
    public_url: str = Field(
        default="",
        description="Value of status.url, the base URL for OpenAI clients; empty: the queue "
        "service's /v1",
    )
    predictor_url: str = Field(
        default="", description="Base URL of the shared predictor; empty: there is none"
    )
    worker_image: str = Field(
        default="lengthwise/worker:0.1.0", description="Image of the worker beside each engine"
    )
    predictor_image: str = Field(
        default="lengthwise/predictor:0.1.0",
        description="Image of a predictor that serves one LLMService alone",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Pull policy of both images"
    )
    image_pull_secrets: str = Field(
        default="", description="Names of the pods' image pull Secrets, separated by commas"
    )
    redis_secret_name: str = Field(
        default="lengthwise-redis",
        description="Secret with the Redis URL, in each namespace that has an LLMService; only "
        "the pods read it, not the operator",
    )
    redis_secret_key: str = Field(default="url", description="Key of the URL in that Secret")
    redis_username: str = Field(default="", description="ACL user; empty: the user in the URL")
    redis_password_key: str = Field(
        default="",
        description="Key of its password in the same Secret; empty: the password in the URL",
    )
    redis_sentinel_username: str = Field(
        default="", description="ACL user at the Sentinels; empty: default"
    )
    redis_sentinel_password_key: str = Field(
        default="", description="Key of that password in the same Secret; empty: none"
    )
    redis_tls_secret_name: str = Field(
        default="",
        description="Secret with certificates, PEM, in each namespace that has an LLMService; "
        "empty: the system's CAs",
    )
    redis_tls_ca_key: str = Field(default="ca.crt", description="Key of the CAs to trust")
    redis_tls_cert_key: str = Field(
        default="", description="Key of the client certificate; empty: none"
    )
    redis_tls_key_key: str = Field(default="", description="Key of its private key")
    redis_tls_verify: TlsVerifyMode = Field(
        default="full", description="full, ca (the host name is not compared) or none"
    )
    durability: DurabilityMode = Field(
        default="async", description="async, replica or always, as in the queue service"
    )
    durability_replicas: int = Field(
        default=DURABILITY_REPLICAS,
        ge=1,
        le=16,
        description="With replica: how many replicas must confirm",
    )
    durability_timeout_ms: int = Field(
        default=DURABILITY_TIMEOUT_MS,
        ge=1,
        le=4000,
        description="Longest wait for that confirmation, ms",
    )
    metrics_namespace: str = Field(
        default="", description="Namespace whose pods may scrape the engines; empty: none"
    )
    allowed_urls: str = Field(
        default="",
        description="Beginnings of URLs, separated by commas, that engine.url and predictor.url "
        "may have beside public addresses and Services of the LLMService's own namespace",
    )
    namespaces: str = Field(
        default="",
        description="The namespaces of --namespace, separated by commas, if the operator has no "
        "rights in others; empty: all namespaces",
    )
    metrics_port: int = Field(default=8084, ge=0, le=65535, description="Port of /metrics; 0: off")
    poll_seconds: float = Field(
        default=5, gt=0, description="Pause between two polls of all queues, s; a poll is one call"
    )
    resync_seconds: float = Field(
        default=30, gt=0, description="Longest pause between two reconciliations of a service, s"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Lowest level that is logged"
    )

    def installation(self) -> Installation:
        """Build the part that the decisions need."""
        return Installation(
            queue_url=self.queue_url.rstrip("/"),
            queue_deployment=self.queue_deployment,
            public_url=self.public_url or self.queue_url.rstrip("/") + "/v1",
            predictor_url=self.predictor_url.rstrip("/"),
            worker_image=self.worker_image,
            predictor_image=self.predictor_image,
            image_pull_policy=self.image_pull_policy,
            image_pull_secrets=tuple(
                name.strip() for name in self.image_pull_secrets.split(",") if name.strip()
            ),
            redis=WorkerRedis(
                secret_name=self.redis_secret_name,
                url_key=self.redis_secret_key,
                username=self.redis_username,
                password_key=self.redis_password_key,
                sentinel_username=self.redis_sentinel_username,
                sentinel_password_key=self.redis_sentinel_password_key,
                tls_secret_name=self.redis_tls_secret_name,
                tls_ca_key=self.redis_tls_ca_key,
                tls_cert_key=self.redis_tls_cert_key,
                tls_key_key=self.redis_tls_key_key,
                tls_verify=self.redis_tls_verify,
                durability=self.durability,
                durability_replicas=self.durability_replicas,
                durability_timeout_ms=self.durability_timeout_ms,
            ),
            metrics_namespace=self.metrics_namespace,
            allowed_urls=tuple(url.strip() for url in self.allowed_urls.split(",") if url.strip()),
        )
