"""`lengthwise evaluate` and `lengthwise adapt`: compare predictors; fit one to your own rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.extras import extra
from lengthwise_cli.flags import one_of

if TYPE_CHECKING:
    from lengthwise_training.compare.report import ComparisonReport
    from lengthwise_training.compare.served_model import ComparedPredictor
    from lengthwise_training.data.rows import LengthTable

#: Fewest prompts that `adapt` accepts.
_LEAST_PROMPTS = 20

#: Columns of the printed table: key of a row, heading, format.
_COLUMNS = (
    ("n", "rows", "{:,}"),
    ("tau_b", "tau-b", "{:.3f}"),
    ("pair_accuracy", "pairs", "{:.3f}"),
    ("spearman", "Spearman", "{:.3f}"),
    ("mae_tokens", "MAE", "{:.1f}"),
    ("rmse_tokens", "RMSE", "{:.1f}"),
    ("within_50", "in 50", "{:.2f}"),
    ("within_100", "in 100", "{:.2f}"),
    ("coverage", "p10-p90", "{:.2f}"),
    ("pinball", "pinball", "{:.1f}"),
    ("latency_p50_ms", "p50 ms", "{:.2f}"),
    ("throughput_per_s", "/s", "{:,.0f}"),
)


def evaluate(
    data: Annotated[
        Path, typer.Option(help="JSONL (or .gz) of prompts with measured lengths to predict.")
    ],
    train: Annotated[Path | None, typer.Option(help="Rows to fit on.")] = None,
    model: Annotated[
        list[Path] | None, typer.Option(help="Folder of another model; repeat for more.")
    ] = None,
    cross_validate: Annotated[
        int,
        typer.Option(min=0, help="Without --train: fit on --data, in this many folds."),
    ] = 0,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Also hold out LLMs and sources of --train.")
    ] = False,
    adapt: Annotated[
        bool, typer.Option(help="Also adapt the models to the rows of --train.")
    ] = True,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use this many rows of --data, drawn with seed 0.")
    ] = None,
    perceive_url: Annotated[
        str | None, typer.Option(help="Also ask the LLM at this OpenAI endpoint for the length.")
    ] = None,
    perceive_model: Annotated[str | None, typer.Option(help="Name of the LLM there.")] = None,
    perceive_api_key: Annotated[
        str | None, typer.Option(envvar="LENGTHWISE_API_KEY", help="API key of that endpoint.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first unusable line.")
    ] = False,
    keep_degenerate: Annotated[
        bool, typer.Option("--keep-degenerate", help="Keep rows marked degenerate.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="auto (CUDA if ONNX Runtime has it), cpu or cuda.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare length predictors on the same rows."""
    with extra("train"):
        from lengthwise_predictor.errors import ModelUnusable
        from lengthwise_predictor.settings import BUNDLED
        from lengthwise_training.compare.comparison import compare
        from lengthwise_training.data.rows import BadLines, LengthTable, without_prompts_of
    one_of("--device", device, ("auto", "cpu", "cuda"))
    if train is not None and cross_validate:
        raise BadUsage("give either --train or --cross-validate")
    if held_out and train is None:
        raise BadUsage("--held-out needs --train: it holds out LLMs and sources of it")
    if (perceive_url is None) != (perceive_model is None):
        raise BadUsage("--perceive-url and --perceive-model go together")
    notes: list[str] = []
    try:
        rows = LengthTable(_read(data, strict, keep_degenerate, limit, notes))
        learned = None
        if train is not None:
            whole = LengthTable(_read(train, strict, keep_degenerate, None, notes))
            learned = without_prompts_of(whole, rows)
            if len(learned) < len(whole):
                notes.append(
                    f"{len(whole) - len(learned)} of {len(whole)} rows of {train} left out: "
                    "their prompts are also in --data"
                )
            if len(learned) < 2:
                raise BadUsage(f"{train} has no prompt that {data} does not have")
        others, cost = _perceivers(perceive_url, perceive_model, perceive_api_key)
        report = compare(
            rows,
            learned,
            [BUNDLED, *(model or [])],
            folds=cross_validate,
            adapt=adapt,
            held_out=held_out,
            others=others,
            device=device,  # type: ignore[arg-type]
        )
    except (BadLines, ModelUnusable, ValueError) as exc:
        raise BadUsage(str(exc)) from exc
    report.summary |= cost()
    report.notes[:0] = notes
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=1))
    else:
        _print(report, rows)


def adapt(
    data: Annotated[Path, typer.Option(help="JSONL (or .gz) of prompts with measured lengths.")],
    out: Annotated[Path, typer.Option(help="Folder for the model; point MODEL_DIR at it.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder of the model to start from. Default: the bundled.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first unusable line.")
    ] = False,
) -> None:
    """Adapt a predictor to your own lengths, without a GPU."""
    with extra("train"):
        from lengthwise_predictor.errors import ModelUnusable
        from lengthwise_predictor.settings import BUNDLED
        from lengthwise_training.adapt.adapted_model import write_adapted_model
        from lengthwise_training.adapt.view_extractor import NoKernelView
        from lengthwise_training.data.rows import BadLines, LengthTable
    if out.resolve() in (BUNDLED.resolve(), (model or BUNDLED).resolve()):
        raise BadUsage("--out must not be the folder of the model to adapt")
    try:
        table = LengthTable(_read(data, strict, False, None, []))
        if len(table.prompts) < _LEAST_PROMPTS:
            raise BadUsage(
                f"{data} has {len(table.prompts)} prompts; at least {_LEAST_PROMPTS} are needed, "
                "and a few hundred for a gain"
            )
        card = write_adapted_model(table, model or BUNDLED, out)
    except (BadLines, ModelUnusable, NoKernelView) as exc:
        raise BadUsage(str(exc)) from exc
    tau = card["metrics"].get("tau_b")
    typer.echo(
        f"wrote {out}: {card['version']}, {len(table):,} rows of {len(card['llms']) - 1} LLMs"
        + ("" if tau is None else f", tau-b {tau:.3f} on prompts left out")
    )


def _read(
    path: Path, strict: bool, keep_degenerate: bool, limit: int | None, notes: list[str]
) -> list[Any]:
    import numpy as np

    from lengthwise_training.data.rows import read

    found = read(path, strict=strict, keep_degenerate=keep_degenerate)
    if found.bad:
        shown = "; ".join(found.bad[:5]) + ("; ..." if len(found.bad) > 5 else "")
        notes.append(f"{len(found.bad)} unusable lines of {path}: {shown}")
        typer.echo(f"lengthwise: {notes[-1]}", err=True)
    if found.degenerate:
        notes.append(f"{found.degenerate} degenerate rows of {path} left out")
    rows = found.rows
    if limit is not None and limit < len(rows):
        kept = np.sort(np.random.default_rng(0).permutation(len(rows))[:limit])
        rows = [rows[i] for i in kept]
    return rows


def _perceivers(url: str | None, model: str | None, api_key: str | None) -> tuple[Any, Any]:
    if url is None or model is None:
        return {}, dict
    from lengthwise_training.compare.self_perception import Wording, self_perceptions

    found: dict[str, ComparedPredictor] = dict(
        self_perceptions(url, model, list(Wording), api_key=api_key)
    )

    def cost() -> dict[str, Any]:
        return {"perception_cost": {name: p.cost.as_json() for name, p in found.items()}}  # type: ignore[attr-defined]

    return found, cost


def _print(report: ComparisonReport, table: LengthTable) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)  # a file is as wide as the table
    console.print(
        f"{len(table):,} rows, {len(table.prompts):,} prompts; ranks within each LLM, averaged."
    )
    by = {
        "all rows": [r for r in report.rows if r["llm"] == r["source"] == "all"],
        "LLM held out": [
            r for r in report.held_out if r["held_out"] == "llm" and r["llm"] == "all"
        ],
        "source held out": [
            r for r in report.held_out if r["held_out"] == "source" and r["source"] == "all"
        ],
    }
    for title, rows in by.items():
        if rows:
            console.print(_table(title, rows))
    for key in ("llm", "source"):
        names = sorted({r[key] for r in report.rows} - {"all"})
        if len(names) > 1:
            console.print(_tau_by(key, names, report.rows))
    for key, value in report.summary.items():
        shown = json.dumps(_rounded(value))
        console.print(f"{key}: {shown}", soft_wrap=True, markup=False)
    for note in report.notes:
        console.print(f"Note: {note}", soft_wrap=True, markup=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    columns = [c for c in _COLUMNS if any(r.get(c[0]) is not None for r in rows)]
    table = Table(title=title, title_justify="left")
    table.add_column("predictor")
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    for row in rows:
        cells = ["" if row.get(k) is None else form.format(row[k]) for k, _, form in columns]
        table.add_row(row["predictor"], *cells)
    return table


def _tau_by(key: str, names: list[str], rows: list[dict[str, Any]]) -> Table:
    other = "source" if key == "llm" else "llm"
    predictors = list(dict.fromkeys(r["predictor"] for r in rows))
    found = {(r["predictor"], r[key]): r for r in rows if r[other] == "all"}
    table = Table(title=f"tau-b by {key}", title_justify="left")
    table.add_column(key)
    table.add_column("rows", justify="right")
    for predictor in predictors:
        table.add_column(predictor, justify="right")
    for name in names:
        cells = []
        for predictor in predictors:
            tau = found.get((predictor, name), {}).get("tau_b")
            cells.append("" if tau is None else f"{tau:.3f}")
        table.add_row(name, f"{found[predictors[0], name]['n']:,}", *cells)
    return table
