"""Settings of vLLM: `spec.engine` and `spec.parallelism`. Pure."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from lengthwise_operator.llmservice.fields import Opaque, Part
from lengthwise_operator.llmservice.pod_spec import EnvVar, SecretKeyRef

#: vLLM's argument for copies of the model in one server, as its parser accepts it.
_DATA_PARALLEL = re.compile(r"-dp|--data[-_]parallel[-_]size")

#: Default engine image. It is pinned, so that the engine never changes without a decision.
ENGINE_IMAGE = "vllm/vllm-openai:v0.32.0"


class EngineSpec(Part):
    """How vLLM is started."""

    image: str = Field(
        default=ENGINE_IMAGE,
        min_length=1,
        description="Image whose entrypoint is `vllm serve`. Pin it: a tag that moves changes the "
        "engine at the next restart of a pod.",
    )
    url: str = Field(
        default="",
        max_length=512,
        pattern=r"^(https?://\S+)?$",
        description="Base URL of an OpenAI-compatible endpoint that exists: a vLLM service, a "
        "router, a gateway, a vendor's API. Then no engine is started: `replicas` counts workers, "
        "each with maxNumSeqs requests at a time. Empty: vLLM is started from model.uri.",
    )
    api_key_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="API key of that endpoint, sent as a bearer token. Only the worker reads it.",
    )
    args: list[Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=list,
        max_length=128,
        description="Additional arguments of `vllm serve`. They follow those that the operator "
        "sets from this resource (model, served name, host, port, scheduling policy, max-num-seqs, "
        "tensor parallel size, context, revision), which must not be given here.",
    )
    env: list[EnvVar] = Field(
        default_factory=list,
        max_length=128,
        json_schema_extra={"map_keys": ["name"]},
        description="Environment variables of the engine.",
    )
    env_from: list[Opaque] = Field(
        default_factory=list,
        max_length=32,
        description="ConfigMaps and Secrets whose keys become variables, as in a Pod.",
    )
    max_num_seqs: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Requests that the engine works on at once (vLLM's --max-num-seqs). A larger "
        "number gives more tokens in total and fewer per request, and needs more memory.",
    )
    user: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="User and group id under which the engine runs, and which own its volumes: "
        "with one, the pods meet the restricted Pod Security Standard. Left out: the image's own "
        "user, root for vllm/vllm-openai.",
    )
    startup_timeout_seconds: int = Field(
        default=1800,
        ge=30,
        le=86400,
        description="How long a replica may take to download and load its model before it is "
        "restarted, s.",
    )

    @property
    def data_parallel_size(self) -> int:
        """Engines in one replica, each with `max_num_seqs`: --data-parallel-size in `args`."""
        words = [word for arg in self.args for word in arg.split("=", 1)]
        for name, value in pairwise(words):
            if _DATA_PARALLEL.fullmatch(name) and value.strip().isdecimal():
                return max(1, int(value))
        return 1


class Parallelism(Part):
    """How one replica is spread over GPUs."""

    tensor: int = Field(
        default=1,
        ge=1,
        le=64,
        description="GPUs of one replica. Sets --tensor-parallel-size, the limit on nvidia.com/gpu "
        "if neither resources nor podTemplate names devices, and a larger /dev/shm.",
    )
