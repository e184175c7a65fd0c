"""Trains the network: a pretrained encoder, cut to size, on the lengths of all authors at once.

An author is an LLM, or people (`human`).
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lengthwise_training.backbones.pretrained import Backbone
from lengthwise_training.bundled.batches import EncodedTexts, LengthTargets, batches, targets
from lengthwise_training.bundled.dataset import Dataset
from lengthwise_training.bundled.length_loss import length_loss
from lengthwise_training.bundled.network import LengthNetwork
from lengthwise_training.bundled.train_config import TrainConfig, served_llms

#: Prompts that decide which units of the encoder are kept.
_PROMPTS_TO_PRUNE_BY = 300


def fit_network(
    texts: EncodedTexts, backbone: Backbone, dataset: Dataset, config: TrainConfig
) -> LengthNetwork:
    """Train on the rows of `dataset`; the first outputs are its LLMs, in their order.

    Args:
        texts: Every prompt, encoded.
        backbone: The pretrained encoder.
        dataset: Rows to learn from.
        config: Of the run.
    """
    rng = np.random.default_rng(config.seed)
    rows, weight = _authors(dataset, config)
    lengths = targets(rows)
    used = np.unique(rows.prompt_index[weight.numpy()[rows.llm_index] > 0])
    share = np.array([config.thinned.get(dataset.sources[i], 1.0) for i in used])
    used = used[rng.random(len(used)) < share]
    encoder = backbone.encoder(config.layers, config.window).shrink()
    chosen = rng.choice(used, min(len(used), _PROMPTS_TO_PRUNE_BY), replace=False)
    _, groups = next(batches(texts, chosen, len(chosen), None))
    encoder.prune(groups, config.wide)
    centre, spread = usual_lengths(lengths)
    network = LengthNetwork(
        encoder,
        (centre, spread),
        (texts.features[used].mean(0), texts.features[used].std(0).clamp(min=0.01)),
        dropout=config.dropout,
    )
    optimizer = torch.optim.AdamW(parameter_groups(network, config), fused=True)
    steps = config.epochs * -(-len(used) // config.batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in optimizer.param_groups], total_steps=steps, pct_start=0.1
    )
    network.train()
    with tqdm(total=steps, desc="network") as bar:
        for _ in range(config.epochs):
            for chunk, groups in batches(texts, used, config.batch, rng):
                features = texts.features[chunk].split([len(g) for g in groups])
                with torch.autocast("cpu", torch.bfloat16, enabled=config.half):
                    out = torch.cat([network(i, f) for i, f in zip(groups, features, strict=True)])
                loss = length_loss(
                    out.float(),
                    lengths.log_samples[chunk],
                    lengths.known[chunk],
                    pair_weight=config.pair_weight,
                    spread=spread,
                    weight=weight,
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                cycle.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return network.eval()


def _authors(dataset: Dataset, config: TrainConfig) -> tuple[Dataset, Tensor]:
    """Return the rows by author, and each author's weight: float32, (authors,).

    An author that is not served counts separately for each source: a person's answers to riddles
    and to questions about the world have nothing in common.
    """
    served = set(served_llms(dataset))
    names = list(dataset.llms)
    places: dict[tuple[int, str], int] = {}
    llm_index = dataset.llm_index.copy()
    for row, (llm, source) in enumerate(
        zip(dataset.llm_index.tolist(), dataset.row_sources, strict=True)
    ):
        if llm in served:
            continue
        if (llm, source) not in places:
            places[llm, source] = len(names)
            names.append(f"{dataset.llms[llm]} on {source}")
        llm_index[row] = places[llm, source]
    weight = torch.full((len(names),), config.others_weight)
    weight[sorted(served)] = 1.0
    return dataclasses.replace(dataset, llms=names, llm_index=llm_index), weight


def usual_lengths(lengths: LengthTargets) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of each author's log length: float32, (authors,)."""
    log_mean = lengths.log_samples.mean(-1)
    known = lengths.known.float()
    count = known.sum(0).clamp(min=1.0)
    centre = (log_mean * known).sum(0) / count
    spread = ((log_mean - centre).square() * known).sum(0).div(count).sqrt()
    return centre, spread.clamp(min=0.1)


def parameter_groups(network: LengthNetwork, config: TrainConfig) -> list[dict[str, object]]:
    """Return a group for each parameter: lower layers learn slower, and only matrices decay."""
    groups: list[dict[str, object]] = []
    for name, parameter in network.named_parameters():
        rate = config.head_rate
        if name.startswith("encoder.layers."):
            rate = config.learning_rate * config.layer_decay ** (
                config.layers - 1 - int(name.split(".")[2])
            )
        elif name.startswith("encoder."):
            rate = config.learning_rate * config.layer_decay**config.layers
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    return groups
