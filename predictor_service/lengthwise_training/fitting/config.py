"""The configuration of a run, which is saved with the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lengthwise_training.backbones.config import HIDDEN, TINY, BackboneConfig
from lengthwise_training.objectives.config import TaskConfig
from lengthwise_training.objectives.objective import Objective
from lengthwise_training.objectives.tasks import OBJECTIVES, Task

#: Default epochs of a pretrained cross-encoder; one of its epochs takes a minute where others take
#: a second.
CROSS_EPOCHS = 3

#: The file's name in a run's folder.
CONFIG = "config.json"


@dataclass(frozen=True)
class FitConfig:
    """The configuration of one run.

    Attributes:
        task: What is learned.
        backbone: What reads the text.
        numbers: The tasks' own numbers.
        epochs: Passes over the training rows.
        tune_epochs: In how many of the first epochs the backbone learns too. After that its vectors
            are computed once, which makes the other epochs cheap. None: all for `tiny`, none for a
            pretrained one.
        batch: Rows in a step; for ListMLE the size of a list.
        learning_rate: Peak, of all weights that start from random.
        encoder_rate: Peak, of a pretrained backbone while it learns.
        weight_decay: Of AdamW.
        hidden: Width of the trunk's one hidden layer.
        dropout: Share dropped before and after it.
        counts: Whether the trunk reads serving's counts of the text beside the backbone's vector.
        rounds: `multi` or `single`, see examples.read_rows.
        llms: LLMs to learn; None is every one in the data.
        cap_tokens: Samples this long or longer count as cut by a cap, tokens; None trusts the rows.
        sample: Rows to learn and validate on; None is all.
        test_rows: Rows of the test fold to measure on, at most.
        seed: Of everything random.
        threads: CPU threads of PyTorch.
        device: Where it computes; a run continues on the device it started on.
    """

    task: Task
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    numbers: TaskConfig = field(default_factory=TaskConfig)
    epochs: int = 12
    tune_epochs: int | None = None
    batch: int = 32
    learning_rate: float = 2e-3
    encoder_rate: float = 5e-5
    weight_decay: float = 0.01
    hidden: int = 128
    dropout: float = 0.2
    counts: bool = True
    rounds: Literal["single", "multi"] = "multi"
    llms: tuple[str, ...] | None = None
    cap_tokens: int | None = None
    sample: int | None = None
    test_rows: int = 2000
    seed: int = 0
    threads: int = 2
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def objective(self) -> Objective:
        """The objective of the task."""
        return OBJECTIVES[self.task]

    @property
    def tuned(self) -> int:
        """Epochs in which the backbone learns."""
        if self.backbone.name == HIDDEN:
            return 0
        if self.tune_epochs is None:
            learns = self.backbone.name == TINY or self.objective.reads_pairs
            return self.passes if learns else 0
        return min(self.tune_epochs, self.passes)

    @property
    def passes(self) -> int:
        """Epochs of the run; of a pretrained cross-encoder, at most those in which it learns.

        Every pair is another text, so a frozen cross-encoder would have to read them all again.
        """
        if not self.objective.reads_pairs or self.backbone.name == TINY:
            return self.epochs
        wanted = CROSS_EPOCHS if self.tune_epochs is None else self.tune_epochs
        return min(wanted or self.epochs, self.epochs)

    def save(self, folder: Path, **more: Any) -> None:
        """Write the configuration to a run's folder, with further facts about the run."""
        text = json.dumps({**asdict(self), **more}, indent=2) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")


def load_config(folder: Path) -> tuple[FitConfig, dict[str, Any]]:
    """Read what `save` wrote: the configuration, and the further facts.

    Raises:
        FileNotFoundError: The folder holds no run.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run of `lengthwise train`: no {CONFIG} in it")
    saved = json.loads(path.read_text(encoding="utf-8"))
    names = FitConfig.__dataclass_fields__.keys()
    fields = {k: saved.pop(k) for k in list(saved) if k in names}
    fields["task"] = Task(fields["task"])
    fields["backbone"] = BackboneConfig(**fields["backbone"])
    fields["numbers"] = TaskConfig(**fields["numbers"])
    if fields["llms"] is not None:
        fields["llms"] = tuple(fields["llms"])
    return FitConfig(**fields), saved
