"""The page that goes with an exported task: data, licences, metrics, limits; pure text.

Called by task_runs. It is written from what the run recorded, so that it cannot say more than that.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lengthwise_training.data.dataset import LICENCES
from lengthwise_training.data.examples import Examples
from lengthwise_training.fitting.config import FitConfig
from lengthwise_training.objectives.tasks import Task

#: How each kind of task gets from what it learns to tokens, one sentence each.
_ANSWERS = {
    "regression": "It predicts the length itself.",
    "classes": "It predicts shares of classes of length; the middle is their mean log median.",
    "ordinal": "It predicts a place between classes of length, read between the classes' medians.",
    "pair": "It predicts which of two prompts read together has the longer answer; a "
    "prompt's score is the share of a few fixed prompts that it is longer than, and tokens come "
    "from isotonic regression of length on that score on the validation rows.",
    "pairwise": "It predicts which of two answers is longer, so all it knows is an order; tokens "
    "come from isotonic regression of length on its score on the validation rows.",
    "listmle": "It predicts the order of a list of answers; tokens come from isotonic regression "
    "of length on its score on the validation rows.",
    "distribution": "It predicts a histogram of lengths and answers with its quantiles.",
    "quantiles": "It predicts p10, p50, p90 and the mean.",
    "scalar": "It predicts one number for several samples of an answer.",
}


def data_facts(examples: Examples) -> list[dict[str, Any]]:
    """Rows and licence of each source: `[{"source", "rows", "licence"}]`."""
    return [
        {"source": source, "rows": rows, "licence": LICENCES.get(source, "not known to Lengthwise")}
        for source, rows in sorted(Counter(examples.sources).items())
    ]


def markdown(card: dict[str, Any], config: FitConfig) -> str:
    """The page.

    Args:
        card: What model.json holds.
        config: Of the run.
    """
    metrics, kind = card["metrics"], config.task.split("-")[0]
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
            f"Predicts how many tokens an LLM will answer. Learned as `{config.task}` by "
            f"`lengthwise train`. {_ANSWERS[kind]} Half of the validation answers are longer than "
            "its p50, and a tenth lies beyond each of p10 and p90.",
            "",
            f"- backbone: `{config.backbone.name}`, "
            f"{config.backbone.layers or 'all'} layers; it reads {read}",
            f"- precision: {card['precision']}, {card['bytes'] / 1e6:.1f} MB; differs from PyTorch "
            f"by {card['parity_max']:.4f} log tokens at most, {card['parity_mean']:.4f} on average",
            f"- LLMs: {llms}; any other is answered as their mean",
            "",
            "## Data",
            "",
            "| source | rows | licence |",
            "|---|---|---|",
            *data,
            "",
            f"Rows left out: {left_out}. Answers that a cap had cut: {card['cut_samples']:,} of "
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
            "- It knows the kinds of prompts and the LLMs above, sampled as they were sampled.",
            "- Two answers to one prompt differ in length; no predictor ranks better than they "
            "agree.",
            "- A licence of the data may forbid to pass the model on; the table above is all that "
            "is known of it.",
            *(
                ["- Its tokens are those of the validation rows' LLMs; only its order was learned."]
                if config.task in (Task.PAIRWISE, Task.LISTMLE)
                else []
            ),
            "",
        ]
    )
