"""Describes the lengths of a file, per LLM and per source: table, JSON and pictures.

The share of the variance between prompts shows how much a predictor could ever explain; the tail
shows what first come, first served costs. Called by `lengthwise characterize`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from lengthwise_training.data.rows import LengthTable

Array = NDArray[np.float64]

#: Quantiles of the table.
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)

#: Panels of the picture, for the largest groups.
_PANELS = 12


@dataclass(frozen=True)
class LengthProfile:
    """Lengths of one group of rows, tokens; None where the data are too few.

    Attributes:
        rows, prompts, samples: Counts.
        censored: Share of the samples that were cut at a cap.
        mean, sd, largest: Of the samples.
        cv: sd / mean; 1 is an exponential distribution's.
        quantiles: By name, `p50` and the like.
        tail_index: Hill's estimate on the largest 5 %: below 2 the variance has no limit, from 4 on
            the tail is light.
        top_decile_share: Share of all tokens in the longest tenth of the answers.
        within_sd: Of samples of one prompt and LLM, pooled: sampling noise.
        between_sd: Of the true means of the prompts.
        icc: Between-prompt share of the variance, 0 to 1, of rows with several samples.
        icc_log: The same in log(1 + tokens), where long answers do not dominate.
        prompt_tau, prompt_spearman: Of the prompt's characters with the answer's length.
        histogram: Counts in the bins of `edges`.
        edges: Log-spaced, tokens.
    """

    rows: int
    prompts: int
    samples: int
    censored: float
    mean: float
    sd: float
    cv: float | None
    largest: float
    quantiles: dict[str, float]
    tail_index: float | None
    top_decile_share: float | None
    within_sd: float | None
    between_sd: float | None
    icc: float | None
    icc_log: float | None
    prompt_tau: float | None
    prompt_spearman: float | None
    histogram: list[int]
    edges: list[float]


def profile(table: LengthTable) -> LengthProfile:
    """Describe all rows of a table, which must not be empty."""
    every = np.concatenate(table.samples)
    cut = np.concatenate(table.censored)
    mean, sd, total = float(every.mean()), float(every.std()), float(every.sum())
    longest = np.sort(every)[-max(1, len(every) // 10) :]
    parts = variance_parts(table.samples, lambda s: s)
    log_parts = variance_parts(table.samples, np.log1p)
    chars = np.array([len(p) for p in table.prompts], dtype=np.float64)[table.prompt_index]
    answer = np.array([s.mean() for s in table.samples])
    related = len(answer) > 2 and np.ptp(chars) > 0 and np.ptp(answer) > 0
    edges = np.unique(np.round(np.geomspace(1, max(2.0, every.max()), 41), 2))
    return LengthProfile(
        rows=len(table),
        prompts=len(table.prompts),
        samples=len(every),
        censored=float(cut.mean()),
        mean=mean,
        sd=sd,
        cv=sd / mean if mean > 0 else None,
        largest=float(every.max()),
        quantiles={_name(q): float(np.quantile(every, q)) for q in QUANTILES},
        tail_index=hill(every),
        top_decile_share=float(longest.sum() / total) if total > 0 else None,
        within_sd=None if parts is None else parts[0],
        between_sd=None if parts is None else parts[1],
        icc=None if parts is None else parts[2],
        icc_log=None if log_parts is None else log_parts[2],
        prompt_tau=float(kendalltau(chars, answer).statistic) if related else None,
        prompt_spearman=float(spearmanr(chars, answer).statistic) if related else None,
        histogram=[int(n) for n in np.histogram(np.maximum(every, 1.0), bins=edges)[0]],
        edges=[float(e) for e in edges],
    )


def _name(quantile: float) -> str:
    return f"p{quantile * 100:g}"


def variance_parts(
    samples: Sequence[Array], scale: Callable[[Array], Array]
) -> tuple[float, float, float] | None:
    """Return within and between standard deviation, and the intraclass correlation ICC(1).

    One-way analysis of variance over rows with at least two samples, whose numbers may differ
    (Donner, "A review of inference procedures for the intraclass correlation coefficient in the
    one-way random effects model", 1986). None with fewer than two such rows.
    """
    many = [scale(s) for s in samples if len(s) > 1]
    if len(many) < 2:
        return None
    sizes = np.array([len(s) for s in many], dtype=np.float64)
    means = np.array([s.mean() for s in many])
    total = sizes.sum()
    grand = float((sizes * means).sum() / total)
    within = sum(float(((s - m) ** 2).sum()) for s, m in zip(many, means, strict=True))
    within /= total - len(many)
    between = float((sizes * (means - grand) ** 2).sum()) / (len(many) - 1)
    size = (total - (sizes**2).sum() / total) / (len(many) - 1)
    true_between = max(0.0, (between - within) / size)
    if true_between + within == 0:
        return 0.0, 0.0, 0.0
    return (
        float(np.sqrt(within)),
        float(np.sqrt(true_between)),
        float(true_between / (true_between + within)),
    )


def hill(lengths: Array) -> float | None:
    """Return Hill's tail index on the largest 5 %.

    None with fewer than 20 lengths in that part, or if all of them are equal.
    """
    count = len(lengths) // 20
    if count < 20:
        return None
    largest = np.sort(lengths)[-count - 1 :]
    if largest[0] <= 0:
        return None
    mean = float(np.log(largest[1:] / largest[0]).mean())
    return 1.0 / mean if mean > 0 else None


def write_profiles(table: LengthTable, out: Path) -> dict[str, Any]:
    """Write `lengths.json`, `lengths.md` and the pictures into a folder.

    Args:
        table: At least one row.
        out: Created if it is missing.

    Returns:
        The content of `lengths.json`: profiles of `all`, by `llm` and by `source`.
    """
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, dict[str, LengthTable]] = {
        "llm": {str(m): table.where(table.llms == m) for m in np.unique(table.llms)},
        "source": {str(s): table.where(table.sources == s) for s in np.unique(table.sources)},
    }
    found: dict[str, Any] = {"all": asdict(profile(table))}
    for kind, parts in groups.items():
        found[kind] = {name: asdict(profile(part)) for name, part in parts.items()}
    (out / "lengths.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "lengths.md").write_text(markdown(found), encoding="utf-8")
    for kind, parts in groups.items():
        _draw(parts, found[kind], out / f"lengths_by_{kind}.png")
    return found


_COLUMNS: tuple[tuple[str, str], ...] = (
    ("rows", "{:,}"),
    ("prompts", "{:,}"),
    ("mean", "{:.0f}"),
    ("cv", "{:.2f}"),
    ("p10", "{:.0f}"),
    ("p50", "{:.0f}"),
    ("p90", "{:.0f}"),
    ("p99", "{:.0f}"),
    ("largest", "{:.0f}"),
    ("censored", "{:.1%}"),
    ("tail_index", "{:.1f}"),
    ("top_decile_share", "{:.2f}"),
    ("within_sd", "{:.0f}"),
    ("between_sd", "{:.0f}"),
    ("icc", "{:.3f}"),
    ("icc_log", "{:.3f}"),
    ("prompt_tau", "{:.3f}"),
)


def markdown(found: dict[str, Any]) -> str:
    """Format the profiles as Markdown tables."""
    lines = ["# Output lengths, tokens\n"]
    groups = {"all": {"all": found["all"]}, "llm": found["llm"], "source": found["source"]}
    for kind, profiles in groups.items():
        lines.append(f"| {kind} | " + " | ".join(name for name, _ in _COLUMNS) + " |")
        lines.append("|---" * (len(_COLUMNS) + 1) + "|")
        for name, one in profiles.items():
            flat = one | one["quantiles"]
            cells = ["" if flat[k] is None else form.format(flat[k]) for k, form in _COLUMNS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _draw(parts: dict[str, LengthTable], profiles: dict[str, Any], path: Path) -> None:
    """Draw a panel for each of the largest groups: histogram on a log axis, median and p90."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    names = sorted(parts, key=lambda n: -profiles[n]["samples"])[:_PANELS]
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 2.7 * lines), layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns, sharex=True, squeeze=False)).ravel()
    for axis, name in zip(axes, names, strict=False):
        one = profiles[name]
        axis.stairs(one["histogram"], one["edges"], fill=True, color="#4c72b0", alpha=0.75)
        for q, colour in (("p50", "black"), ("p90", "#c44e52")):
            at = max(one["quantiles"][q], 1.0)
            axis.axvline(at, color=colour, linewidth=1.2, label=f"{q} {at:.0f}")
        axis.set_xscale("log")
        icc = "" if one["icc_log"] is None else f", ICC of logs {one['icc_log']:.2f}"
        axis.set_title(f"{name}\n{one['samples']:,} answers{icc}", fontsize=8)
        axis.legend(fontsize=7, loc="upper left", frameon=False)
        axis.tick_params(labelsize=7, labelbottom=True)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    figure.supxlabel("output tokens", fontsize=9)
    figure.supylabel("answers", fontsize=9)
    figure.savefig(path, dpi=110)
