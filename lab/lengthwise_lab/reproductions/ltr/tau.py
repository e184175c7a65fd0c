"""The rows about LTR's rankers and classifiers, and the loss of tau by classes. Called by rows.py.

Training the rankers again needs Llama 3's answers and a GPU. A simulator can show their lesson:
scores with the ranker's tau lose it when they are cut into classes of equal, large width.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lengthwise_lab.reproductions.recorded_runs import predicting
from lengthwise_lab.reproductions.table.row import (
    About,
    Absent,
    NumberSource,
    TableRow,
    without_requests,
)
from lengthwise_lab.simulator.workloads.lengths import Lengths
from lengthwise_lab.simulator.workloads.predictions import tau_b
from lengthwise_lab.simulator.workloads.workload import Workload

#: (prompts, LLM, the ranker's tau, tau of (classes, tokens a class)).
_TAUS: tuple[tuple[str, str, float, tuple[tuple[int, int, float], ...]], ...] = (
    ("LMSYS", "70B", 0.62, ((82, 100, 0.58), (820, 10, 0.57), (8192, 1, 0.52), (10, 820, 0.21))),
    ("ShareGPT", "70B", 0.55,
     ((82, 100, 0.49), (820, 10, 0.48), (8192, 1, 0.28), (10, 820, 0.18))),
    ("LMSYS", "8B", 0.64, ()),
    ("ShareGPT", "8B", 0.52, ()),
)  # fmt: skip

#: Accuracy of its ten classes, %, which is independent of their rank.
_ACCURACY = (("LMSYS", "8B", 97.0), ("ShareGPT", "8B", 92.0))

#: The tau-b that a third party found when it trained them again.
_AGAIN = (("ranker of OPT-125M", 0.559), ("10 classes", 0.194), ("BERT-base, margin loss", 0.596))

_REQUESTS = 10_000


def tau_rows(small: Lengths, large: Lengths) -> list[TableRow]:
    """Return all of LTR's rows about its predictors.

    Args:
        small: Lengths of the 8B.
        large: Lengths of the 70B.
    """
    lengths = {"8B": small, "70B": large}
    found = []
    for prompts, model, tau, classes in _TAUS:
        found.append(_row("Kendall's tau-b, ranker", f"{prompts}, {model}", tau, "code comment"))
        for count, width, published in classes:
            reproduced, _ = _in_classes(lengths[model], tau, width)
            found.append(
                _row(
                    f"Kendall's tau-b, {count:,} equal classes", f"{prompts}, {model}", published,
                    "code comment", reproduced=reproduced,
                )
            )  # fmt: skip
    for prompts, model, published in _ACCURACY:
        tau = next(t for p, m, t, _ in _TAUS if (p, m) == (prompts, model))
        _, accuracy = _in_classes(lengths[model], tau, 820)
        found.append(
            _row(
                "accuracy, 10 equal classes", f"{prompts}, {model}", published, "code comment", "%",
                reproduced=100 * accuracy,
            )
        )  # fmt: skip
    for what, published in _AGAIN:
        found.append(
            _row(f"Kendall's tau-b, {what}", "trained again by others", published, "third party")
        )
    for name, unit, published, note in (
        ("predictor's share of the time", "%", 2.0, "published: less than 2 %"),
        ("training on 10,000 prompts", "min", 5.0, "published: less than 5 minutes"),
    ):
        found.append(
            TableRow(
                system="LTR", name=name, setting="OPT ranker beside its LLM, A100", unit=unit,
                published=published, kind="blog", note=note,
                absent={"reproduced": Absent.HARDWARE, "corrected": Absent.HARDWARE,
                        "lengthwise": Absent.NO_ORDER},
                details=without_requests(
                    About.COST,
                    "the cost of Lengthwise: docs/guides/evaluating.md, docs/guides/predictors.md",
                ),
            )
        )  # fmt: skip
    return found


def _row(
    name: str,
    setting: str,
    published: float,
    kind: NumberSource,
    unit: str = "",
    *,
    reproduced: float | None = None,
) -> TableRow:
    missing = Absent.MODEL if reproduced is None else Absent.NO_DEFECT
    absent = {"corrected": missing, "lengthwise": Absent.NO_ORDER}
    if reproduced is None:
        absent["reproduced"] = Absent.MODEL
    return TableRow(
        system="LTR",
        name=name,
        setting=setting,
        unit=unit,
        published=published,
        kind=kind,
        reproduced=reproduced,
        note="" if reproduced is None else "noise of the ranker's tau, cut into classes",
        absent=absent,
        details=without_requests(
            About.PREDICTOR, "how well its scores rank answers whose lengths are known"
        ),
    )


def _in_classes(lengths: Lengths, tau: float, width: int) -> tuple[float, float]:
    """Cut scores of that tau into classes of `width` tokens; return their tau-b and accuracy."""
    workload, predictor = predicting(Workload(lengths=lengths, requests=_REQUESTS), "noisy", tau)
    jobs = next(replace(workload, seed=7).pieces(predictor))
    classes = np.floor(jobs.predicted / width)
    right = float((classes == np.floor(jobs.output / width)).mean())
    return tau_b(jobs.output.astype(float), classes), right
