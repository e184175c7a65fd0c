"""The configuration of a training run of the bundled model, beside its data; called by `train`."""

from __future__ import annotations

from dataclasses import dataclass, field

from lengthwise_training.bundled.dataset import Dataset
from lengthwise_training.bundled.kernel import KernelConfig
from lengthwise_training.data.sources import REDISTRIBUTABLE_SOURCES

#: Name prefixes of authors that are not served: people, and outdated LLMs. The network learns from
#: their answers what prompts are like, but never predicts for them.
NOT_SERVED = ("human", "openai/gpt3-", "openai/davinci", "openai/text-davinci")


def served_llms(dataset: Dataset) -> list[int]:
    """Return the numbers of the LLMs that the model predicts for."""
    return [i for i, name in enumerate(dataset.llms) if not name.startswith(NOT_SERVED)]


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of a run, beside its data; saved with the model.

    Attributes:
        sources: Sources to learn from; None is all.
        thinned: Share of the prompts of a source that the network sees; 1 where not named.
        epochs: Passes of the network over the prompts.
        batch: Prompts in a step.
        learning_rate: Peak of the encoder's last layer; one cycle.
        layer_decay: Factor by which each lower layer learns slower.
        head_rate: Peak of everything but the encoder.
        weight_decay: Of all matrices.
        pair_weight: Weight of the order of pairs in the loss.
        others_weight: Weight in the loss of authors that are not served; 0 leaves them out.
        kernel_share: Weight of the kernel in the median, 0 to 1.
        layers: Layers of the encoder.
        window: Tokens it reads.
        wide: Feed-forward units kept in each of its layers.
        max_tokens: Window of the topics, tokens.
        dropout: Share dropped of the network's text vector.
        half: Train with products in bfloat16: several times faster where a CPU has AMX.
        kernel: How the kernel compares texts.
        threads: CPU threads.
        seed: Of everything random.
        version: The model's name for itself in its card.
    """

    sources: tuple[str, ...] | None = REDISTRIBUTABLE_SOURCES
    thinned: dict[str, float] = field(
        default_factory=lambda: {"gsm8k-train": 0.1, "gsm8k-example-solutions": 0.1}
    )
    epochs: int = 4
    batch: int = 32
    learning_rate: float = 1e-4
    layer_decay: float = 0.9
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    pair_weight: float = 0.5
    others_weight: float = 1.5
    kernel_share: float = 0.6
    layers: int = 3
    window: int = 56
    wide: int = 768
    max_tokens: int = 192
    dropout: float = 0.1
    half: bool = True
    kernel: KernelConfig = field(default_factory=KernelConfig)
    threads: int = 1
    seed: int = 0
    version: str = "own"
