"""The LLM and its weights: `spec.model` and `spec.modelCache`. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lengthwise_operator.llmservice.fields import QUANTITY, Part


class ModelSpec(Part):
    """Which LLM is served, and where its weights are."""

    uri: str = Field(
        default="",
        pattern=r"^((hf|pvc|oci|path)://\S+)?$",
        max_length=512,
        description="Where the weights are. `hf://org/name`: the Hugging Face hub, downloaded into "
        "the model cache. `pvc://claim/folder`: a PersistentVolumeClaim of this namespace, mounted "
        "read-only. `oci://registry/image:tag`: an OCI image or artifact with the weights at its "
        "root, mounted as an image volume (Kubernetes 1.33). `path:///folder`: a path inside the "
        "engine's container, for weights that are baked into the image or mounted through "
        "podTemplate. Empty: engine.url serves the model.",
    )
    name: str = Field(
        default="",
        max_length=256,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9._:@+-]+)*)?$",
        description="The name that clients send as `model`. It is also the name of the queue, and "
        "must be unique in the installation. Empty: the name of this object.",
    )
    revision: str = Field(
        default="",
        max_length=256,
        description="Branch, tag or commit on the hub, for `hf://` only. Empty: the main branch.",
    )
    max_model_len: int | None = Field(
        default=None,
        ge=1,
        description="Longest context, prompt and answer together, tokens. Left out: the length in "
        "the model's configuration, which may not fit into the GPU's memory.",
    )


class ModelCache(Part):
    """Where weights from the hub are stored, so that a restart does not download them again."""

    existing_claim: str = Field(
        default="",
        max_length=253,
        description="A PersistentVolumeClaim of this namespace to use. Empty: the operator creates "
        "one, and it is deleted together with this object.",
    )
    size: str = Field(
        default="50Gi", pattern=QUANTITY, description="Size of the claim that is created."
    )
    storage_class_name: str = Field(
        default="", description="Storage class of that claim. Empty: the cluster's default."
    )
    access_modes: list[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]] = Field(
        default_factory=lambda: ["ReadWriteOnce"],  # type: ignore[arg-type]
        min_length=1,
        max_length=3,
        description="Access modes of that claim. Replicas on several nodes need ReadWriteMany.",
    )
