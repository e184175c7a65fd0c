"""Writes the model card of an exported task: data, licences, metrics and limits, as Markdown.

Called by `runs.run`. The card states only what the run recorded.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lengthwise_training.data.examples import Examples
from lengthwise_training.data.sources import LICENCES
from lengthwise_training.fitting.config import FitConfig


def data_facts(examples: Examples) -> list[dict[str, Any]]:
    """Return rows and licence of each source: `[{"source", "rows", "licence"}]`."""
    return [
        {"source": source, "rows": rows, "licence": LICENCES.get(source, "not known to Lengthwise")}
        for source, rows in sorted(Counter(examples.sources).items())
    ]


def markdown(card: dict[str, Any], config: FitConfig) -> str:
    """Return the card.

    Args:
        card: The content of model.json.
        config: The run's configuration.
    """
    metrics, objective = card["metrics"], config.objective
    data = [f"| {d['source']} | {d['rows']:,} | {d['licence']} |" for d in card["training_data"]]
    left_out = ", ".join(f"{n:,} {why}" for why, n in card["left_out"].items()) or "none"
    llms = ", ".join(card["llms"][1:])
    read = (
        f"the first and last words of a text, {card['max_tokens']} tokens in all"
        if card["reads"] == "ids"
        else "vectors of the served LLM; serving cannot load it, "
        "`lengthwise_training.backbones.hidden_states` can"
    )
    coverage = "" if metrics.get("coverage") is None else f"{metrics['coverage']:.2f}"
    return "\n".join(
        [
            f"# {card['version']}",
            "",
            f"Predicts how many tokens an LLM's answer has. Learned as `{config.task}` by "
            f"`lengthwise train`. {objective.answers} Half of the validation answers are longer "
            "than its p50, and a tenth lies beyond each of p10 and p90.",
            "",
            f"- backbone: `{config.backbone.name}`, "
            f"{config.backbone.layers or 'all'} layers; it reads {read}",
            f"- precision: {card['precision']}, {card['bytes'] / 1e6:.1f} MB; differs from PyTorch "
            f"by {card['parity_max']:.4f} log tokens at most, {card['parity_mean']:.4f} on average",
            f"- LLMs: {llms}; any other LLM gets their mean",
            "",
            "## Data",
            "",
            "| source | rows | licence |",
            "|---|---|---|",
            *data,
            "",
            f"Rows left out: {left_out}. Answers that a cap cut: {card['cut_samples']:,} of "
            f"{card['samples']:,}; they count as longer than the cap. The folds are by prompt: "
            f"{card['rows']['train']:,} rows to learn from, {card['rows']['validation']:,} to "
            f"choose the epoch and calibrate, {card['rows']['test']:,} to measure.",
            "",
            "## Measured on the test fold",
            "",
            "| tau-b | tau-b, pooled | pair accuracy | MAE, tokens | within p10 to p90 |",
            "|---|---|---|---|---|",
            f"| {metrics['tau_b']:.3f} | {metrics['tau_b_pooled']:.3f} | "
            f"{metrics['pair_accuracy']:.3f} | {metrics['mae_tokens']:.1f} | {coverage} |",
            "",
            "Rank is scored within each LLM and averaged, against one realised answer a row.",
            "",
            "## Limits",
            "",
            "- It was trained on the kinds of prompts and the LLMs above, and on the way they were "
            "sampled.",
            "- Two answers to one prompt differ in length; no predictor ranks better than they "
            "agree.",
            "- A licence of the data may forbid redistributing the model; only the licences in the "
            "table above are known.",
            *(f"- {limit}" for limit in objective.limits),
            "",
        ]
    )
