"""Trains one task on prepared rows, with a checkpoint after every epoch; called by `runs.run`."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import time
from pathlib import Path

import torch
from tqdm import tqdm

from lengthwise_training.fitting.assembly import untrained
from lengthwise_training.fitting.calibration import fit_calibration
from lengthwise_training.fitting.config import FitConfig
from lengthwise_training.fitting.prepared import PreparedRows, unchanged_vectors
from lengthwise_training.fitting.progress import FitProgress
from lengthwise_training.fitting.task_predictor import TaskPredictor
from lengthwise_training.fitting.trainer import TaskTrainer

CHECKPOINT = "checkpoint.pt"


def fit(
    prepared: PreparedRows, config: FitConfig, folder: Path, trainer_type: type[TaskTrainer]
) -> tuple[TaskPredictor, FitProgress]:
    """Train a run, or continue it from the checkpoint in its folder.

    Args:
        prepared: The rows.
        config: The run's configuration.
        folder: Exists; a checkpoint in it is of this very run.
        trainer_type: Makes the steps.
    """
    torch.set_num_threads(config.threads)
    predictor = untrained(prepared, config)
    run = trainer_type(prepared, config, predictor)
    if config.tuned == 0 and trainer_type is TaskTrainer:
        unchanged_vectors(prepared)  # before this run's clock starts: several runs share them
    progress, best = FitProgress(), run.trainable_state()
    path = folder / CHECKPOINT
    if path.is_file():
        saved = torch.load(path, weights_only=True, map_location=config.device)
        progress = FitProgress(**saved["progress"])
        best = saved["best"]
        run.restore(saved)
    # Adam's moments of rare tokens decay to denormals, which makes steps five times slower. The
    # setting is reset below: it holds for the whole thread, and other code needs IEEE arithmetic.
    torch.set_flush_denormal(True)
    try:
        steps = config.passes * run.steps_an_epoch
        with tqdm(
            total=steps,
            initial=progress.epoch * run.steps_an_epoch,
            desc=config.task,
            disable=None,
        ) as bar:
            while progress.epoch < config.passes:
                began, cpu = time.perf_counter(), time.process_time()
                run.epoch(progress.epoch, bar)
                tau = run.validation_tau()
                progress.epoch += 1
                progress.history.append(tau)
                if tau >= progress.best_tau:
                    progress.best_tau, best = tau, run.trainable_state()
                progress.seconds += time.perf_counter() - began
                progress.cpu_seconds += time.process_time() - cpu
                bar.set_postfix(validation_tau=f"{tau:.3f}")
                run.save(path, progress, best)
    finally:
        torch.set_flush_denormal(False)
    run.load_trainable(best)
    predictor.eval()
    rows, both = run.validation, []
    for llm in (torch.zeros(len(rows), dtype=torch.int64), run.llm[rows]):
        both.append(run.raw(rows, llm))
    predictor.to("cpu")  # little is left to compute, and the export runs on the CPU
    examples = prepared.examples
    fit_calibration(
        predictor,
        (both[0], both[1]),
        examples.tokens[rows],
        examples.known[rows],
        examples.cut[rows],
    )
    return predictor, progress
