"""What an engine's time goes into: a model that can be fitted to a real one, kept as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lengthwise_lab.simulator.core.state import Floats, Ints


class Batching(BaseModel):
    """Continuous batching with chunked prefill, as vLLM does it.

    A step takes `step_ms + decode_ms * n + prefill_ms * p + context_ms * c` for n sequences that
    decode, p prompt tokens computed in it, and c tokens of context of those that decode.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["batching"] = "batching"
    slots: int = Field(default=64, ge=1, description="max_num_seqs")
    step_ms: float = Field(default=20.0, gt=0, description="Of a step, whatever is in it, ms")
    decode_ms: float = Field(default=0.0, ge=0, description="And for each that decodes, ms")
    prefill_ms: float = Field(default=0.0, ge=0, description="More for each prompt token, ms")
    context_ms: float = Field(default=0.0, ge=0, description="More for each token of context, ms")
    token_budget: int = Field(default=2048, ge=1, description="max_num_batched_tokens")
    block_size: int = Field(default=16, ge=1, description="Tokens in a KV block")
    kv_blocks: int = Field(default=0, ge=0, description="KV blocks; 0: as many as are wanted")
    preemption: Literal["recompute", "swap"] = Field(
        default="recompute", description="What becomes of the KV of one that has to give way"
    )
    swap_ms: float = Field(default=0.0, ge=0, description="Moving one block either way, ms")

    @model_validator(mode="after")
    def _budget_holds_every_sequence(self) -> Batching:
        if self.token_budget < self.slots:
            raise ValueError(
                f"token_budget {self.token_budget} must be at least slots ({self.slots}): "
                "every sequence that decodes takes one token of it"
            )
        return self

    def rules(self) -> dict[str, Any]:
        """Its part of `Rules`."""
        return {
            "independent": 0,
            "step_s": self.step_ms / 1000,
            "decode_s": self.decode_ms / 1000,
            "prefill_s": self.prefill_ms / 1000,
            "context_s": self.context_ms / 1000,
            "budget": self.token_budget,
            "block_size": self.block_size,
            "limited": int(self.kv_blocks > 0),
            "swap": int(self.preemption == "swap"),
            "swap_s": self.swap_ms / 1000,
        }

    def work(self, tokens: Floats) -> Floats:
        """What so many output tokens are in work: steps."""
        return np.maximum(np.rint(tokens), 1.0)

    def milliseconds(self, tokens: Floats) -> Floats:
        """How long so many output tokens take in a full batch, ms; what a queue measures."""
        return tokens * (self.step_ms + self.decode_ms * self.slots)

    def too_large(self, prompt: Ints, output: Ints) -> int | None:
        """The first request that can never have KV blocks enough; None: all can."""
        if self.kv_blocks == 0:
            return None
        over = np.flatnonzero(prompt + output + 1 > self.kv_blocks * self.block_size)
        return int(over[0]) if len(over) else None

    def seconds_of_work(self, prompt: Floats, output: Floats) -> Floats:
        """What requests cost a full engine, in seconds of the whole of it; for offered load.

        The context is taken at its mean over a full batch of such requests.
        """
        context = self.context_ms * (prompt + output / 2)
        per_token = self.step_ms / self.slots + self.decode_ms + context
        return (output * per_token + prompt * self.prefill_ms) / 1000


class Independent(BaseModel):
    """Slots that know nothing of each other: what SSJF's simulator and queueing theory assume."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["independent"] = "independent"
    slots: int = Field(default=1, ge=1)
    request_ms: float = Field(default=100.0, ge=0, description="For each request, ms")
    token_ms: float = Field(default=20.0, gt=0, description="For each output token, ms")
    kv_blocks: Literal[0] = 0
    block_size: Literal[1] = 1

    def rules(self) -> dict[str, Any]:
        """Its part of `Rules`."""
        return {"independent": 1, "step_s": self.token_ms / 1000}

    def work(self, tokens: Floats) -> Floats:
        """What so many output tokens are in work: seconds."""
        return (self.request_ms + self.token_ms * tokens) / 1000

    def milliseconds(self, tokens: Floats) -> Floats:
        """How long so many output tokens take, ms."""
        return self.work(tokens) * 1000

    def too_large(self, prompt: Ints, output: Ints) -> int | None:
        """No request is: there is no memory here."""
        return None

    def seconds_of_work(self, prompt: Floats, output: Floats) -> Floats:
        """What requests cost, in seconds of the whole engine; for offered load."""
        return self.work(output) / self.slots


Engine = Annotated[Batching | Independent, Field(discriminator="kind")]
