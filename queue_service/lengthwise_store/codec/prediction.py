"""A prediction as a job's record keeps it, and the measured answers that come back with it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from lengthwise_contract.prediction import Prediction
from lengthwise_store.prediction_record import (
    Basis,
    LearnedPrediction,
    MeasuredAnswer,
    Served,
    predictor_tag,
)


def write_quantiles(prediction: Prediction | None, basis: Basis) -> tuple[str, str]:
    """Write a prediction and its basis for the record, and which predictor made it.

    The first string is "p10 p50 p90 mean rank cap tag chars lines", and behind that the calibrated
    "p10 p50 p90" if it was calibrated. The cap is "tokens" or "tokens*answers", 0 for none; chars
    and lines are the prompt's `Shape`. The script `finish` copies the string unchanged to the list
    of the last answers.

    It is short, because a Redis hash whose values are all at most 64 bytes takes a third of the
    memory. Four digits are a twentieth of a per cent.
    """
    if prediction is None:
        return "", ""
    p = prediction
    numbers = [f"{n:.4g}" for n in (p.p10_tokens, p.p50_tokens, p.p90_tokens, p.mean_tokens)]
    cap = str(basis.max_tokens or 0) + (f"*{basis.answers}" if basis.answers != 1 else "")
    calibrated = [f"{n:.4g}" for n in basis.calibrated or ()]
    tag, shape = predictor_tag(p.model_version), map(str, basis.shape)
    parts = [*numbers, f"{p.rank_score:.5g}", cap, tag, *shape, *calibrated]
    return " ".join(parts), p.model_version


def write_learning(basis: Basis) -> str:
    """Write what was learned about a job: "L<learned>/<young>/<served>", log tokens; "": nothing.

    The script `finish` copies it, too.
    """
    one = basis.learning
    if one is None:
        return ""
    numbers = ("" if n is None else f"{n:.4f}" for n in (one.learned, one.young))
    return f"L{'/'.join(numbers)}/{one.served}"


def read_learning(text: str) -> LearnedPrediction | None:
    """Read what `write_learning` wrote."""
    if not text.startswith("L"):
        return None
    learned, young, served = text[1:].split("/")
    return LearnedPrediction(
        learned=float(learned) if learned else None,
        young=float(young) if young else None,
        served=cast("Served", served),
    )


def read_quantiles(record: dict[str, str]) -> tuple[Prediction | None, Basis]:
    """Read what `write_quantiles` wrote into a job's record."""
    if not record.get("quantiles"):
        return None, Basis()
    parts = record["quantiles"].split()
    p10, p50, p90, mean, rank = map(float, parts[:5])
    prediction = Prediction(
        model_version=record["predictor"],
        p10_tokens=p10,
        p50_tokens=p50,
        p90_tokens=p90,
        mean_tokens=mean,
        rank_score=rank,
    )
    learning = read_learning(record.get("learning", ""))
    return prediction, replace(_read_basis(parts), learning=learning)


def read_measured_answer(
    priced: str, tokens: int, parts: list[str], at_s: float | None
) -> MeasuredAnswer:
    """Read one entry of the list of the last answers.

    Args:
        priced: Predicted tokens; "" without a prediction.
        tokens: Tokens generated.
        parts: The first string of `write_quantiles`, split, and that of `write_learning`, if any.
        at_s: When it finished, s since the epoch.
    """
    learning = read_learning(parts[-1]) if parts else None
    if learning is not None:
        parts = parts[:-1]
    if not priced or len(parts) < 3:
        return MeasuredAnswer(tokens=tokens, priced=float(priced) if priced else None, at_s=at_s)
    p10, p50, p90 = map(float, parts[:3])
    raw = (p10, p50, p90)
    basis = _read_basis(parts)
    return MeasuredAnswer(
        tokens=tokens,
        priced=float(priced),
        raw=raw,
        calibrated=basis.calibrated or raw,
        predictor=parts[6] if len(parts) >= 9 else "",
        max_tokens=basis.max_tokens,
        count=basis.answers,
        shape=basis.shape,
        at_s=at_s,
        learning=learning,
    )


def _read_basis(parts: list[str]) -> Basis:
    """Read what follows the five numbers; an old record has nothing there."""
    if len(parts) < 9:
        return Basis()
    cap, _, answers = parts[5].partition("*")
    calibrated: list[float] = [float(part) for part in parts[9:12]]
    return Basis(
        calibrated=(calibrated[0], calibrated[1], calibrated[2]) if len(calibrated) == 3 else None,
        max_tokens=int(cap) or None,
        answers=int(answers or 1),
        shape=(int(parts[7]), int(parts[8])),
    )
