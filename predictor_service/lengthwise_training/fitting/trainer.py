"""The training steps of one run, and its state for checkpoints.

What is random in an epoch depends on the seed and the epoch's number only, so a run that was killed
and continued ends in the same model as one that was not. Called by `fit`.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau
from torch import Tensor

from lengthwise_training.backbones.config import HIDDEN, TINY
from lengthwise_training.data.examples import VALIDATION_FOLD
from lengthwise_training.fitting.config import FitConfig
from lengthwise_training.fitting.prepared import PreparedRows, pad, read_all, unchanged_vectors
from lengthwise_training.fitting.progress import FitProgress
from lengthwise_training.fitting.task_predictor import TaskPredictor
from lengthwise_training.objectives.head import LengthBatch


class TaskTrainer:
    """The model, rows, optimizer and schedule of one run."""

    def __init__(self, prepared: PreparedRows, config: FitConfig, predictor: TaskPredictor) -> None:
        self.prepared, self.config = prepared, config
        # The rows stay in main memory; each step copies what it needs to the device.
        self.device = torch.device(config.device)
        self.predictor = predictor = predictor.to(self.device)
        examples = prepared.examples
        self.prompt = examples.prompt_index
        self.llm = torch.from_numpy(examples.llm_index + 1)
        self.tokens = torch.from_numpy(examples.tokens)
        self.known, self.cut = torch.from_numpy(examples.known), torch.from_numpy(examples.cut)
        self.training = np.flatnonzero(examples.folds > VALIDATION_FOLD)
        self.validation = np.flatnonzero(examples.folds == VALIDATION_FOLD)
        # A list of one row has no order.
        self.steps_an_epoch = max(1, len(self.training) // config.batch)
        others = [p for n, p in predictor.named_parameters() if not n.startswith("encoder.")]
        encoder = [p for p in predictor.encoder.parameters() if p.requires_grad]
        rate = config.learning_rate
        pretrained = config.backbone.name not in (TINY, HIDDEN)
        groups = [{"params": others, "lr": rate}]
        if encoder:
            groups.append({"params": encoder, "lr": config.encoder_rate if pretrained else rate})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        steps = config.passes * self.steps_an_epoch
        warm = max(1, steps // 10)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm))),
        )
        self._vectors: Tensor | None = None

    def epoch(self, number: int, bar: Any) -> None:
        """Make one pass over the training rows."""
        config, predictor = self.config, self.predictor
        torch.manual_seed(config.seed * 1_000_003 + number)
        rng = np.random.default_rng([config.seed, number])
        order = rng.permutation(self.training)
        tuning = number < config.tuned
        vectors = None if tuning else self.vectors_for_steps()
        predictor.train()
        if tuning:
            self._vectors = None
        else:
            predictor.encoder.eval()
        for rows in np.array_split(order, self.steps_an_epoch):
            loss = self.step_loss(rows, rng, vectors)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(
                [p for p in predictor.parameters() if p.grad is not None], 1.0
            )
            self.optimizer.step()
            self.schedule.step()
            bar.update()

    def vectors_for_steps(self) -> Tensor | None:
        """Return the frozen encoder's vectors; None: each step reads its own texts."""
        return self.vectors()

    def step_loss(
        self, rows: NDArray[np.int64], rng: np.random.Generator, vectors: Tensor | None
    ) -> Tensor:
        """Compute the loss of some rows, a scalar.

        `vectors`: of all prompts; None reads the texts of these rows.
        """
        at = self.prompt[rows]
        vector = self.read(rows) if vectors is None else vectors[at].to(self.device)
        features = self.prepared.features[at].to(self.device)
        raw = self.predictor.trunk(vector, features, self.llm[rows].to(self.device))
        return self.predictor.head.loss(raw, self.batch(rows))

    def batch(self, rows: NDArray[np.int64]) -> LengthBatch:
        """Return the lengths of some rows for the loss."""
        known = self.known[rows]
        drawn = torch.multinomial(known.to(torch.float32), 1).squeeze(1)
        return LengthBatch(
            tokens=self.tokens[rows].to(self.device),
            known=known.to(self.device),
            cut=self.cut[rows].to(self.device),
            drawn=drawn.to(self.device),
            order=torch.randperm(len(rows)).to(self.device),
        )

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Encode some rows, each prompt once: float32, (rows, width)."""
        prompts, where = np.unique(self.prompt[rows], return_inverse=True)
        vectors = self.predictor.encoder(pad(self.prepared, prompts).to(self.device))
        return vectors[torch.from_numpy(where).to(self.device)]

    def vectors(self) -> Tensor:
        """Return the encoder's vectors of the prompts to learn from: float32, (prompts, width)."""
        if self._vectors is None:
            if self.config.tuned == 0:
                self._vectors = unchanged_vectors(self.prepared)
            else:
                rows = np.concatenate([self.training, self.validation])
                prompts = np.unique(self.prompt[rows])
                self._vectors = read_all(self.predictor.eval().encoder, self.prepared, prompts)
        return self._vectors

    def raw(self, rows: NDArray[np.int64], llm: Tensor) -> Tensor:
        """Compute the trunk's numbers for some rows, without dropout: float32, (rows, outputs)."""
        self.predictor.eval()
        at = self.prompt[rows]
        vectors = self._vectors
        if vectors is None:
            vectors = read_all(self.predictor.encoder, self.prepared, np.unique(at))
        with torch.inference_mode():
            inputs = vectors[at], self.prepared.features[at], llm
            out = self.predictor.trunk(*(part.to(self.device) for part in inputs))
        return out.cpu().clone()

    def validation_tau(self) -> float:
        """Compute tau-b of the validation rows' middles with their mean lengths, pooled."""
        rows = self.validation
        with torch.inference_mode():
            raw = self.raw(rows, self.llm[rows]).to(self.device)
            middle = self.predictor.head.middle(raw).cpu().numpy()
        known = self.prepared.examples.known[rows]
        tokens = self.prepared.examples.tokens[rows]
        mean = (tokens * known).sum(1) / known.sum(1)
        if np.ptp(middle) == 0 or np.ptp(mean) == 0:
            return 0.0
        return float(kendalltau(middle, mean).statistic)

    def trainable_state(self) -> dict[str, Tensor]:
        """Copy all weights that a run may change."""
        whole = self.predictor.state_dict()
        return {
            name: value.clone()
            for name, value in whole.items()
            if self.config.tuned or not name.startswith("encoder.")
        }

    def load_trainable(self, state: dict[str, Tensor]) -> None:
        """Restore the weights that `trainable_state` returned."""
        self.predictor.load_state_dict(state, strict=False)
        if self.config.tuned:
            self._vectors = None

    def save(self, path: Path, progress: FitProgress, best: dict[str, Tensor]) -> None:
        """Write the checkpoint completely or not at all."""
        part = path.with_suffix(".part")
        torch.save(
            {
                "progress": dict(vars(progress)),
                "best": best,
                "weights": self.trainable_state(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            part,
        )
        os.replace(part, path)

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore a checkpoint."""
        self.load_trainable(saved["weights"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
