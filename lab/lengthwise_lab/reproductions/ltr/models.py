"""The two LLMs that LTR was measured with, as engines of the simulator. Called by rows.py.

LTR was measured on real engines; its request traces and its engines' speeds are not published. So
both are cost models with assumed figures for vLLM 0.4 (eager, chunked prefill of 768, 256
sequences, swapping). The lengths are substitutes (`--data`: Llama 3 on ShareGPT prompts; without:
published quantiles), and the ranker is noise with their tau.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lengthwise_lab.reproductions.recorded_runs import predicting, record
from lengthwise_lab.reproductions.table.details import describe
from lengthwise_lab.simulator.engines import BatchingEngine
from lengthwise_lab.simulator.policies import DEFAULT_POLICY, K_ALONE, policy_named
from lengthwise_lab.simulator.simulation import RunLimits, SimulationResult
from lengthwise_lab.simulator.summary import summarize
from lengthwise_lab.simulator.workloads.lengths import Lengths, published, read_lengths
from lengthwise_lab.simulator.workloads.workload import Workload

#: Assumed: weights are read once a step (16 GB at 1.5 TB/s, and as much again for eager launches),
#: 8,000 prompt tokens a second, 128 KiB of KV a token, 18 GB of them, 20 GB/s to the host.
ENGINE_8B = BatchingEngine(
    slots=256,
    step_ms=22,
    decode_ms=0.03,
    prefill_ms=0.125,
    context_ms=0.00009,
    token_budget=768,
    kv_blocks=8_600,
    preemption="swap",
    swap_ms=0.1,
)

#: Assumed, of 8 A100-40GB: a step reads 17.6 GB of weights on each at 1.5 TB/s (12 ms), launches 80
#: layers eagerly (27 ms at the 8B's 11 ms for 32) and reduces 160 times over 8 GPUs (5 ms). A
#: prompt token is 140 GFLOP, at 45 % of 2.5 PFLOP/s 8,000 a second. 320 KiB of KV a token, 40 KiB
#: on each GPU; 8 x 36 GB less 141 GB of weights hold 25,700 blocks. Every GPU swaps its own part of
#: a block at 20 GB/s.
ENGINE_70B = BatchingEngine(
    slots=256,
    step_ms=44,
    decode_ms=0.03,
    prefill_ms=0.125,
    context_ms=0.000027,
    token_budget=768,
    kv_blocks=25_700,
    preemption="swap",
    swap_ms=0.033,
)

#: The tau of the LLM's own guess of its length; not published, so that of an untuned LLM.
PERCEPTION_TAU = 0.35

#: Name in the rows -> policy, and whose predictions it gets: the ranker's, or the LLM's own.
POLICIES: Mapping[str, tuple[str, str]] = {
    "fcfs": ("fcfs", ""),
    "ltr": ("ltr", "ranker"),
    "ltr-starvation": ("ltr-starvation", "ranker"),
    "perception": ("ltr-perception", "perception"),
    "mlfq": ("mlfq", ""),
    "srpt-oracle": ("srpt-oracle", ""),
    "lengthwise": (DEFAULT_POLICY, "ranker"),
    "k_alone": (K_ALONE, "ranker"),
    "sjf": ("sjf", "ranker"),
}


@dataclass(frozen=True, kw_only=True)
class LtrModel:
    """One of LTR's two LLMs on its hardware.

    Attributes:
        label: Its name in the rows.
        engine: Its cost model.
        lengths: The lengths of its answers.
        tau: The tau-b of its ranker on ShareGPT prompts, as published.
    """

    label: str
    engine: BatchingEngine
    lengths: Lengths
    tau: float


def models(data: Path | None) -> tuple[LtrModel, LtrModel]:
    """Return the 8B and the 70B."""
    return (
        LtrModel(label="8B", engine=ENGINE_8B, tau=0.52,
              lengths=lengths_of(data, "meta-llama/Llama-3.1-8B-Instruct")),
        LtrModel(label="70B", engine=ENGINE_70B, tau=0.55,
              lengths=lengths_of(data, "meta-llama/Llama-3.3-70B-Instruct")),
    )  # fmt: skip


def lengths_of(data: Path | None, model: str) -> Lengths:
    """Return lengths of ShareGPT-like chats of a Llama 3, with prompts of 4 to 1,024 tokens."""
    if data is None:
        found = published("sharegpt")
    else:
        found = read_lengths(
            data / "lengths_castillo.jsonl.gz", model=model, source="castillo/ShareGPT"
        )
    keep = (found.prompt >= 4) & (found.prompt <= 1024) & (found.output <= 8192)
    return Lengths(
        prompt=found.prompt[keep], output=found.output[keep], recorded=found.recorded[keep]
    )


@dataclass(frozen=True)
class LtrRun:
    """One workload under one policy: the finished simulation, and its details."""

    result: SimulationResult
    details: Mapping[str, Any]

    def mean(self, metric: str) -> float:
        """Return the mean of `s_per_token`, `ttft_s`, `worst_gap_s` or `completion_s`, s."""
        return float(self.details[metric]["mean"])


class LtrRuns:
    """One workload of a model under several policies.

    Args:
        model: The LLM.
        workload: The requests; the predictor is set for each policy.
        limits: When a run ends early.
    """

    def __init__(
        self, model: LtrModel, workload: Workload, limits: RunLimits | None = None
    ) -> None:
        self._model, self._workload = model, workload
        self._limits = limits or RunLimits()
        self.serve = cache(self._serve)

    def _serve(self, name: str) -> LtrRun:
        policy, source = POLICIES.get(name) or (name, "ranker")
        taus = {"ranker": self._model.tau, "perception": PERCEPTION_TAU}
        workload, predictor = predicting(
            self._workload, "noisy" if source else "oracle", taus.get(source)
        )
        recorded = record(workload, predictor, self._model.engine, policy, limits=self._limits)
        summary = summarize(recorded.result)
        more = {key: summary[key] for key in ("ttft_s", "s_per_token", "worst_gap_s", "engine")}
        about = policy_named(policy).about
        return LtrRun(recorded.result, describe([recorded.times], policy=about, more=more))
