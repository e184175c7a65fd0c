"""Trains, measures and writes the bundled model from length records.

`python -m lengthwise_training.bundled.train --data DIR --out DIR` trains twice: first without the
validation prompts, to measure; then with them, to ship. The folder holds the second model and the
numbers of the first. To check these, `--hold-out` stops after the first and writes that one.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lengthwise_predictor.features import FEATURE_NAMES
from lengthwise_predictor.model import LengthModel
from lengthwise_training.backbones import pretrained
from lengthwise_training.backbones.pretrained import Backbone
from lengthwise_training.bundled.batches import EncodedTexts, batches, encode, pad
from lengthwise_training.bundled.blended_predictor import BlendedPredictor
from lengthwise_training.bundled.dataset import (
    Dataset,
    build_dataset,
    read_records,
    validation_rows,
)
from lengthwise_training.bundled.dataset_scores import many_sampled, score_dataset
from lengthwise_training.bundled.evaluate import compare_with_baselines, predict, scores_table
from lengthwise_training.bundled.int8_export import export_int8
from lengthwise_training.bundled.kernel import KernelView, fit_regression, fit_topics
from lengthwise_training.bundled.network_training import fit_network
from lengthwise_training.bundled.train_config import TrainConfig, served_llms
from lengthwise_training.bundled.view_outputs import add_view, prompts_for_scales
from lengthwise_training.data.sources import LICENCES, REDISTRIBUTABLE_SOURCES
from lengthwise_training.data.splits import fold_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedDataset:
    """The encoded dataset that both trainings share.

    Attributes:
        dataset: Every row.
        texts: Every prompt, encoded.
        backbone: The pretrained encoder.
    """

    dataset: Dataset
    texts: EncodedTexts
    backbone: Backbone


def fit(prepared: EncodedDataset, rows: NDArray[np.bool_], config: TrainConfig) -> BlendedPredictor:
    """Train the model on some rows; `rows`: bool, (rows of the dataset,)."""
    torch.manual_seed(config.seed)
    dataset = prepared.dataset.rows_where(rows)
    # Adam's moments of rare tokens decay to denormals, which made steps five times slower. The
    # setting is reset below: it holds for the whole thread, and other code needs IEEE arithmetic.
    torch.set_flush_denormal(True)
    try:
        network = fit_network(prepared.texts, prepared.backbone, dataset, config)
    finally:
        torch.set_flush_denormal(False)
    served = served_llms(dataset)
    of_served = np.isin(dataset.llm_index, served)
    texts = np.unique(dataset.prompt_index[of_served])
    ids = [prepared.texts.ids[i] for i in texts]
    topics = fit_topics(ids, prepared.backbone.tokenizer.get_vocab_size(), config.kernel.topics)
    view = KernelView(topics, config.kernel)
    with torch.inference_mode():
        features = prepared.texts.features[texts]
        seen = torch.cat([topics(pad([i])) for i in ids])
        states = torch.zeros(len(texts), network.encoder.places.shape[1])
        for chunk, groups in batches(prepared.texts, texts, 256, None):
            states[np.searchsorted(texts, chunk)] = torch.cat([network.encoder(i) for i in groups])
        view.fit(features, seen, states)
        points = view.combine(features, seen, states)
    log_mean = np.log(dataset.samples.astype(np.float64)).mean(axis=1)
    target = np.zeros((len(texts), len(served)))
    known = np.zeros(target.shape, dtype=bool)
    at = (
        np.searchsorted(texts, dataset.prompt_index[of_served]),
        np.searchsorted(served, dataset.llm_index[of_served]),
    )
    target[at], known[at] = log_mean[of_served], True
    log.info("kernel on %d texts", len(texts))
    regression = fit_regression(points, target, known, config.kernel)
    return BlendedPredictor(
        network,
        view,
        regression,
        served,
        kernel_share=config.kernel_share,
        max_tokens=config.max_tokens,
    ).eval()


def calibrate(predictor: BlendedPredictor, prepared: EncodedDataset, rows: Dataset) -> None:
    """Scale p10 and p90, in place, until each holds its share of the given samples.

    Args:
        predictor: Trained without these rows.
        prepared: Holds their prompts.
        rows: Rows of served LLMs; those of other authors are skipped.

    Source: split conformal prediction (Romano, Patterson, Candes 2019), scaled and not shifted.
    """
    served = predictor.served.tolist()
    rows = rows.rows_where(np.isin(rows.llm_index, served))
    if len(rows.prompt_index) == 0:
        return
    used = np.unique(rows.prompt_index)
    parts = []
    with torch.inference_mode():
        for i in used:
            p50, low, high, _ = predictor.served_llms(
                pad([prepared.texts.ids[i]]), prepared.texts.features[i : i + 1]
            )
            parts.append(torch.stack([p50[0], low[0], high[0]]))
        table_ = torch.stack(parts)  # (texts, 3, llms)
        at = np.searchsorted(used, rows.prompt_index)
        column = np.searchsorted(served, rows.llm_index)
        p50, low, high = table_[at, :, column].unbind(1)
        truth = torch.from_numpy(np.log(rows.samples))
        predictor.widen.copy_(_widening(truth, p50, low, high))
        centre = table_[:, 0].mean(1)
        apart = table_[:, 0].var(1, correction=0) * 1.2816**2
        any_low = (table_[:, 1].square().mean(1) + apart).sqrt()
        any_high = (table_[:, 2].square().mean(1) + apart).sqrt()
        predictor.widen_any.copy_(_widening(truth, centre[at], any_low[at], any_high[at]))


def _widening(truth: Tensor, p50: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return factors by which a tenth of the samples lies below p10, and a tenth above p90."""
    below = torch.quantile(((p50[:, None] - truth) / low[:, None]).flatten(), 0.9)
    above = torch.quantile(((truth - p50[:, None]) / high[:, None]).flatten(), 0.9)
    return torch.stack([below, above]).clamp(min=0.1)


def train(
    dataset: Dataset,
    backbone: Backbone,
    out: Path,
    config: TrainConfig,
    *,
    hold_out: bool = False,
    baselines: bool = True,
) -> dict[str, Any]:
    """Measure a model, then write the one to ship; return its card.

    Args:
        dataset: Every row.
        backbone: The pretrained encoder.
        out: Folder to write.
        config: Of the run.
        hold_out: Write the measured model, trained without the validation prompts.
        baselines: Whether the baselines are measured beside it, which takes minutes.
    """
    torch.set_num_threads(config.threads)
    texts = encode(dataset.prompts, backbone.tokenizer, config.max_tokens)
    prepared = EncodedDataset(dataset, texts, backbone)
    held = validation_rows(dataset)
    halves = np.array([fold_of(g + "#", 2) for g in dataset.groups])[dataset.prompt_index]
    predictor = fit(prepared, ~held, config)
    calibrate(predictor, prepared, dataset.rows_where(held & (halves == 0)))
    widen = predictor.widen.clone(), predictor.widen_any.clone()
    card = describe(dataset, backbone, config)

    with tempfile.TemporaryDirectory() as scratch:
        target = out if hold_out else Path(scratch)
        card["held_out_validation"] = True
        card["parity"] = export_int8(predictor, backbone.tokenizer, card, target)
        names = {dataset.llms[i] for i in served_llms(dataset)}
        named = np.array([dataset.llms[i] in names for i in dataset.llm_index])
        model = LengthModel(target, provider="cpu")
        scores = compare_with_baselines(
            dataset.rows_where(~held & named),
            many_sampled(dataset.rows_where(held & named)),
            model,
            baselines=baselines,
        )
        fresh = many_sampled(dataset.rows_where(held & named & (halves == 1)))
        p10, p50, p90 = predict(model, fresh)
        covered = score_dataset(fresh, p50, (p10, p90)).coverage
    log.info("validation\n%s", scores_table(scores))
    # One half of the validation prompts widened the quantiles; the other half measures them.
    card["metrics"] = {**asdict(scores["this model"]), "coverage": covered}
    card["compared"] = {name: asdict(s) for name, s in scores.items()}
    if not hold_out:
        predictor = fit(prepared, np.ones(len(held), dtype=bool), config)
        predictor.widen.copy_(widen[0])
        predictor.widen_any.copy_(widen[1])
        card["held_out_validation"] = False
    card["parity"] = export_int8(predictor, backbone.tokenizer, card, out)
    card["view"] = add_view(out, prompts_for_scales(dataset, config), version=config.version)
    return card


def describe(dataset: Dataset, backbone: Backbone, config: TrainConfig) -> dict[str, Any]:
    """Return the content of model.json before the model is measured."""
    rows = {s: dataset.row_sources.count(s) for s in sorted(set(dataset.row_sources))}
    return {
        "version": config.version,
        "max_tokens": config.max_tokens,
        "feature_names": list(FEATURE_NAMES),
        "llms": ["*", *(dataset.llms[i] for i in served_llms(dataset))],
        "sources": None if config.sources is None else list(config.sources),
        "training_data": [
            {"source": s, "rows": n, "licence": LICENCES.get(s, "your own")}
            for s, n in rows.items()
        ],
        "backbone": backbone.name,
        "config": asdict(config),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, train, and log where the model is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of length records")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--backbone", type=Path, help="folder of a pretrained encoder")
    parser.add_argument("--version", help="the model's version in its card")
    parser.add_argument(
        "--all-sources", action="store_true", help="use every record, also your own"
    )
    parser.add_argument("--hold-out", action="store_true", help="write the model that was measured")
    parser.add_argument("--epochs", type=int, default=TrainConfig.epochs)
    parser.add_argument("--threads", type=int, default=TrainConfig.threads)
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    options = parser.parse_args(arguments)

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = TrainConfig(
        sources=None if options.all_sources else REDISTRIBUTABLE_SOURCES,
        epochs=options.epochs,
        threads=options.threads,
        seed=options.seed,
    )
    if options.version:
        config = dataclasses.replace(config, version=options.version)
    dataset = build_dataset(read_records(options.data, sources=config.sources))
    train(
        dataset,
        pretrained.load_pretrained(options.backbone),
        options.out,
        config,
        hold_out=options.hold_out,
    )
    log.info("wrote %s", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
