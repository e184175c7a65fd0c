"""The engines that can be simulated: models of their speed and memory, kept as JSON.

`engine_fit.py` fits one to a real engine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lengthwise_lab.simulator.core.state import Floats, Ints


class BatchingEngine(BaseModel):
    """Continuous batching with chunked prefill, as vLLM does it.

    A step takes `step_ms + decode_ms * n + prefill_ms * p + context_ms * c` for n sequences that
    decode, p prompt tokens computed in it, and c tokens of context of those that decode.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["batching"] = "batching"
    slots: int = Field(default=64, ge=1, description="max_num_seqs")
    step_ms: float = Field(default=20.0, gt=0, description="Fixed time of a step, ms")
    decode_ms: float = Field(
        default=0.0, ge=0, description="More for each sequence that decodes, ms"
    )
    prefill_ms: float = Field(default=0.0, ge=0, description="More for each prompt token, ms")
    context_ms: float = Field(default=0.0, ge=0, description="More for each token of context, ms")
    token_budget: int = Field(default=2048, ge=1, description="max_num_batched_tokens")
    block_size: int = Field(default=16, ge=1, description="Tokens in a KV block")
    kv_blocks: int = Field(default=0, ge=0, description="KV blocks; 0: unlimited")
    preemption: Literal["recompute", "swap"] = Field(
        default="recompute", description="What happens to the KV of a preempted request"
    )
    swap_ms: float = Field(
        default=0.0, ge=0, description="Moving one block in either direction, ms"
    )

    @model_validator(mode="after")
    def _budget_holds_every_sequence(self) -> BatchingEngine:
        if self.token_budget < self.slots:
            raise ValueError(
                f"token_budget {self.token_budget} must be at least slots ({self.slots}): "
                "every sequence that decodes takes one token of the budget"
            )
        return self

    def parameters(self) -> dict[str, Any]:
        """Return the engine's fields of `Parameters`."""
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
        """Return so many output tokens as work: steps."""
        return np.maximum(np.rint(tokens), 1.0)

    def milliseconds(self, tokens: Floats) -> Floats:
        """Return how long so many output tokens take in a full batch, ms; a queue measures it."""
        return tokens * (self.step_ms + self.decode_ms * self.slots)

    def too_large(self, prompt: Ints, output: Ints) -> int | None:
        """Return the first request that needs more KV blocks than there are; None: none does."""
        if self.kv_blocks == 0:
            return None
        over = np.flatnonzero(prompt + output + 1 > self.kv_blocks * self.block_size)
        return int(over[0]) if len(over) else None

    def seconds_of_work(self, prompt: Floats, output: Floats) -> Floats:
        """Return what each request costs a full engine, s of the whole engine; for offered load.

        The context is taken at its mean over a full batch of such requests.
        """
        context = self.context_ms * (prompt + output / 2)
        per_token = self.step_ms / self.slots + self.decode_ms + context
        return (output * per_token + prompt * self.prefill_ms) / 1000


class IndependentSlots(BaseModel):
    """Slots that do not slow each other down, as SSJF's simulator and queueing theory assume."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["independent"] = "independent"
    slots: int = Field(default=1, ge=1)
    request_ms: float = Field(default=100.0, ge=0, description="Time for each request, ms")
    token_ms: float = Field(default=20.0, gt=0, description="More for each output token, ms")
    kv_blocks: Literal[0] = 0
    block_size: Literal[1] = 1

    def parameters(self) -> dict[str, Any]:
        """Return the engine's fields of `Parameters`."""
        return {"independent": 1, "step_s": self.token_ms / 1000}

    def work(self, tokens: Floats) -> Floats:
        """Return so many output tokens as work: seconds."""
        return (self.request_ms + self.token_ms * tokens) / 1000

    def milliseconds(self, tokens: Floats) -> Floats:
        """Return how long so many output tokens take, ms."""
        return self.work(tokens) * 1000

    def too_large(self, prompt: Ints, output: Ints) -> int | None:
        """Return None: this engine has no memory limit."""
        return None

    def seconds_of_work(self, prompt: Floats, output: Floats) -> Floats:
        """Return what each request costs, s of the whole engine; for offered load."""
        return self.work(output) / self.slots


SimulatedEngine = Annotated[BatchingEngine | IndependentSlots, Field(discriminator="kind")]
