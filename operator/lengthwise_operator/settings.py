"""Settings of the operator's process, from the environment (`LENGTHWISE_OPERATOR_*`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

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
    redis_secret_key: str = Field(default="url", description="Key within it")
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
            public_url=self.public_url or self.queue_url.rstrip("/") + "/v1",
            predictor_url=self.predictor_url.rstrip("/"),
            worker_image=self.worker_image,
            predictor_image=self.predictor_image,
            image_pull_policy=self.image_pull_policy,
            image_pull_secrets=tuple(
                name.strip() for name in self.image_pull_secrets.split(",") if name.strip()
            ),
            redis_secret_name=self.redis_secret_name,
            redis_secret_key=self.redis_secret_key,
            metrics_namespace=self.metrics_namespace,
        )
