"""Settings of the operator's process, from the environment (`LENGTHWISE_OPERATOR_*`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from lengthwise_operator.children.worker_redis import Durability, TlsVerify, WorkerRedis
from lengthwise_operator.service import Installation


class Settings(BaseSettings):
    """One field, one environment variable: `queue_url` is `LENGTHWISE_OPERATOR_QUEUE_URL`."""

    model_config = SettingsConfigDict(
        env_prefix="LENGTHWISE_OPERATOR_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    queue_url: str = Field(
        min_length=1, description="Base URL of the queue service, as pods reach it"
    )
    queue_api_key: SecretStr | None = Field(
        default=None, description="Admin key of the queue service; none: it asks for none"
    )
    queue_deployment: str = Field(
        default="",
        pattern=r"^([^/]+/[^/]+)?$",
        description="NAMESPACE/NAME of the queue service's Deployment: while it is being rolled "
        "out, no worker is replaced; empty: nothing is waited for",
    )
    public_url: str = Field(
        default="",
        description="What status.url says, for OpenAI clients; empty: the queue service's /v1",
    )
    predictor_url: str = Field(
        default="", description="Base URL of the shared predictor; empty: there is none"
    )
    worker_image: str = Field(
        default="lengthwise/worker:0.1.0", description="Image of the worker beside each engine"
    )
    predictor_image: str = Field(
        default="lengthwise/predictor:0.1.0", description="Image of predictors of their own"
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Of both"
    )
    image_pull_secrets: str = Field(
        default="", description="Names of Secrets for the pods' images, divided by commas"
    )
    redis_secret_name: str = Field(
        default="lengthwise-redis",
        description="Secret with the Redis URL, in each namespace that has an LLMService; only "
        "the pods read it",
    )
    redis_secret_key: str = Field(default="url", description="Key of the URL within it")
    redis_username: str = Field(default="", description="ACL user; empty: the URL's")
    redis_password_key: str = Field(
        default="", description="Key of its password in the same Secret; empty: the URL's"
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
        default="", description="Key of our own certificate; empty: none"
    )
    redis_tls_key_key: str = Field(default="", description="Key of its private key")
    redis_tls_verify: TlsVerify = Field(
        default="full", description="full, ca (do not compare the host's name) or none"
    )
    durability: Durability = Field(
        default="async", description="async, replica or always, as the queue service has it"
    )
    durability_replicas: int = Field(
        default=1, ge=1, le=16, description="replica: so many replicas must confirm"
    )
    durability_timeout_ms: int = Field(
        default=1000, ge=1, le=4000, description="Longest wait for that, ms"
    )
    metrics_namespace: str = Field(
        default="", description="Namespace whose pods may scrape the engines; empty: none"
    )
    namespaces: str = Field(
        default="",
        description="a,b: those of --namespace, if no right reaches beyond them; empty: all",
    )
    metrics_port: int = Field(default=8084, ge=0, le=65535, description="Of /metrics; 0: off")
    poll_seconds: float = Field(
        default=5, gt=0, description="Between two looks at the queues, s; one call for all"
    )
    resync_seconds: float = Field(
        default=30, gt=0, description="A service is looked at at least so often, s"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe line that is logged"
    )

    def installation(self) -> Installation:
        """What the decisions need of this."""
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
        )
