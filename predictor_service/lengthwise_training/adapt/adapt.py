"""Writes a model that is adapted to one's own lengths, as a folder that serving loads.

The graph of the model it starts from is cut behind its view of the prompt; `adapted`'s fit is put
there instead. Seconds for a thousand prompts, no GPU, no PyTorch. Called by the command line.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lengthwise_predictor.model import LengthModel
from lengthwise_training.adapt.adapted import Adapted, Viewer
from lengthwise_training.adapt.words import LEFT, PAIR_BUCKETS, RIGHT, fit_words
from lengthwise_training.compare.scores import Said, score
from lengthwise_training.data.dataset import fold_of
from lengthwise_training.data.rows import LengthTable

Array = NDArray[np.float64]

#: Parts in which the words are left out.
_FOLDS = 5

#: An LLM needs so many rows for a spread of its own.
_LEAST_ROWS = 50

#: Largest difference between the fit and the written file that is no error, log tokens.
_PARITY = 0.02


def adapt(train: LengthTable, model: Path, out: Path) -> dict[str, Any]:
    """Fit and write; returns the card.

    Args:
        train: At least a few hundred rows of the LLMs that will be served.
        model: Folder of the model to start from.
        out: Folder to write.

    Raises:
        NoView: That model has no view of prompts that could be fitted.
        ModelUnusable: That model cannot be loaded.
        RuntimeError: The written file does not say what was fitted.
    """
    viewer = Viewer(model, LengthModel(model, provider="cpu"))
    fit = Adapted(viewer, train)
    spread, left_out = _spread(fit, train)
    out.mkdir(parents=True, exist_ok=True)
    _write_graph(fit, spread, model / "model.onnx", out / "model.onnx")
    shutil.copyfile(model / "tokenizer.json", out / "tokenizer.json")
    old = viewer.model.card
    card: dict[str, Any] = {
        k: old[k] for k in ("max_tokens", "feature_names", "backbone", "precision") if k in old
    }
    rows = {str(m): int((train.llms == m).sum()) for m in np.unique(train.llms)}
    card |= {
        "version": f"{viewer.model.version}+adapted",
        "llms": ["*", *fit.kernel.llms],
        "sources": None,
        "training_data": [
            *old.get("training_data", []),
            {"source": "your own", "rows": len(train), "licence": "your own"},
        ],
        "adapted_to": {"rows": rows, "prompts": len(train.prompts)},
        # Of what is said of a prompt that was left out.
        "metrics": {} if left_out is None else {"tau_b": left_out},
        "held_out_validation": False,
    }
    (out / "model.json").write_text(
        json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    _check(fit, spread, train, out)
    return card


def _spread(fit: Adapted, train: LengthTable) -> tuple[Array, float | None]:
    """What is added to a row's log(1 + tokens) for p10, p50, p90 and the mean: (1 + llms, 4).

    From the samples' distance to what would be said had the row's prompt not been there: the
    kernel's part in closed form, the words' in five parts by prompt. Beside it, the tau-b of that.
    """
    kernel = fit.kernel
    table = train.where(np.isin(np.arange(len(train)), kernel.rows))
    column = np.array([kernel.column(str(m)) for m in table.llms])
    ids = fit.viewer.ids(table.prompts)
    target = table.log_mean() - kernel.base[column]
    part = np.array([fold_of(p, _FOLDS) for p in table.prompts])
    by_text = np.zeros(len(ids))
    for fold in range(_FOLDS):
        known = part[table.prompt_index] != fold
        if known.any() and not known.all():
            others = fit_words(
                ids, table.prompt_index[known], target[known], vocabulary=fit.words.vocabulary
            )
            asked = np.flatnonzero(part == fold)
            by_text[asked] = others.away([ids[i] for i in asked])
    words = by_text[table.prompt_index]
    own = 0.5 * (kernel.left_out[:, 0] + kernel.base[column] + words)
    other = 0.5 * (kernel.left_out[:, 1] + kernel.base[0] + words)
    away = [np.log1p(s) - o for s, o in zip(table.samples, own, strict=True)]
    away_other = [np.log1p(s) - o for s, o in zip(table.samples, other, strict=True)]
    everyone = _offsets(np.concatenate(away_other))
    spread = [everyone]
    for number in range(1, 1 + len(kernel.llms)):
        mine = [a for a, c in zip(away, column, strict=True) if c == number]
        spread.append(_offsets(np.concatenate(mine if len(mine) >= _LEAST_ROWS else away)))
    scores = score(table, Said(np.expm1(own)))
    return np.array(spread), None if scores is None else scores.tau_b


def _offsets(away: Array) -> list[float]:
    low, middle, high = np.quantile(away, [0.1, 0.5, 0.9])
    return [float(low), float(middle), float(high), float(np.log(np.exp(away).mean()))]


def _write_graph(fit: Adapted, spread: Array, model: Path, out: Path) -> None:
    """The old graph up to the view, then the fit: see `Adapted.log_tokens`."""
    old = onnx.load(str(model))
    graph = old.graph
    new: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(value, f"adapted.{name}"))
        return f"adapted.{name}"

    def node(kind: str, inputs: list[str], result: str, **attributes: Any) -> str:
        new.append(
            helper.make_node(kind, inputs, [result], name=f"/adapted/{result}", **attributes)
        )
        return result

    def number(name: str, value: float) -> str:
        return constant(name, np.array(value, dtype=np.float32))

    last = constant("axis_last", np.array([-1], dtype=np.int64))
    first = constant("axis_1", np.array([1], dtype=np.int64))
    points = fit.kernel.points.astype(np.float32)
    view = fit.viewer.view_name
    # The kernel.
    node("Mul", [view, view], "squared")
    node("ReduceSum", ["squared", last], "squares", keepdims=1)
    node("MatMul", [view, constant("points", np.ascontiguousarray(points.T))], "products")
    node("Mul", ["products", number("minus_two", -2.0)], "cross")
    squares = (points.astype(np.float64) ** 2).sum(1).astype(np.float32)
    node("Add", ["squares", constant("squares", squares)], "both_squares")
    node("Add", ["both_squares", "cross"], "raw_distance")
    node("Max", ["raw_distance", number("zero", 0.0)], "square_distance")
    node("Mul", ["square_distance", number("three", 3.0)], "scaled_distance")
    node("Add", ["scaled_distance", number("tiny", 1e-9)], "positive_distance")
    node("Sqrt", ["positive_distance"], "distance")
    node("Neg", ["distance"], "minus_distance")
    node("Exp", ["minus_distance"], "fading")
    node("Add", ["distance", number("one", 1.0)], "rising")
    node("Mul", ["rising", "fading"], "near")
    weights = (0.5 * fit.kernel.weights).astype(np.float32)
    node("MatMul", ["near", constant("weights", weights)], "by_kernel")
    # The words; id 0 is padding, and pairs with it count for nothing.
    vocabulary, table = fit.words.vocabulary, fit.words.table
    zero_id = constant("zero_id", np.array(0, dtype=np.int64))
    node("Equal", ["ids", zero_id], "is_padding")
    node("Not", ["is_padding"], "is_there")
    node("Cast", ["is_there"], "there", to=TensorProto.FLOAT)
    starts = constant("starts", np.array([0], dtype=np.int64))
    ones = constant("ones", np.array([1], dtype=np.int64))
    end = constant("end", np.array([np.iinfo(np.int64).max], dtype=np.int64))
    minus = constant("minus_one", np.array([-1], dtype=np.int64))
    for name in ("ids", "there"):
        node("Slice", [name, starts, minus, first], f"left_{name}")
        node("Slice", [name, ones, end, first], f"right_{name}")
    node("Mul", ["left_ids", constant("left", np.array(LEFT, dtype=np.int64))], "left_part")
    node("Mul", ["right_ids", constant("right", np.array(RIGHT, dtype=np.int64))], "right_part")
    node("Add", ["left_part", "right_part"], "pair_hash")
    node("Mod", ["pair_hash", constant("pairs", np.array(PAIR_BUCKETS, np.int64))], "pair_rows")
    node("Mul", ["left_there", "right_there"], "pair_there")
    tables = {"token": (table[:vocabulary], "ids", "there")}
    tables["pair"] = (table[vocabulary:], "pair_rows", "pair_there")
    for name, (values, rows, there) in tables.items():
        node("Gather", [constant(f"{name}_table", values), rows], f"{name}_values")
        node("Mul", [f"{name}_values", there], f"{name}_present")
        node("ReduceSum", [f"{name}_present", first], f"{name}_sum", keepdims=1)
        node("ReduceSum", [there, first], f"{name}_count", keepdims=1)
    node("Add", ["token_sum", "pair_sum"], "word_sum")
    node("Add", ["token_count", "pair_count"], "word_count")
    node("Add", ["word_count", "adapted.one"], "one_more")
    node("Sqrt", ["one_more"], "word_root")
    node("Div", ["word_sum", "word_root"], "word_mean")
    node("Mul", ["word_mean", number("half", 0.5)], "by_words")
    # Both, for every LLM and quantile, of which one LLM's are wanted.
    base = (fit.kernel.base + 0.5 * fit.words.offset).astype(np.float32)
    node("Add", ["by_kernel", constant("base", base)], "kernel_and_base")
    node("Add", ["kernel_and_base", "by_words"], "centre")
    node("Unsqueeze", ["centre", last], "centre_column")
    node("Add", ["centre_column", constant("spread", spread.astype(np.float32))], "everyone")
    depth = constant("depth", np.array([len(base)], dtype=np.int64))
    on_off = constant("on_off", np.array([0.0, 1.0], dtype=np.float32))
    node("OneHot", ["llm", depth, on_off], "chosen", axis=-1)
    node("Unsqueeze", ["chosen", last], "chosen_column")
    node("Mul", ["everyone", "chosen_column"], "kept")
    node("ReduceSum", ["kept", first], "log1p_tokens", keepdims=0)
    node("Exp", ["log1p_tokens"], "one_more_token")
    node("Sub", ["one_more_token", "adapted.one"], "tokens")
    node("Max", ["tokens", "adapted.one"], "some_tokens")
    node("Log", ["some_tokens"], "log_tokens")

    kept = _needed(graph, view)
    used = {name for n in kept for name in n.input} | {"ids"}
    inputs = [i for i in graph.input if i.name in ("ids", "features", "llm")]
    made = helper.make_graph(
        [*kept, *new],
        "adapted",
        inputs,
        [helper.make_tensor_value_info("log_tokens", TensorProto.FLOAT, ["batch", 4])],
        [*(i for i in graph.initializer if i.name in used), *constants],
    )
    done = helper.make_model(made, opset_imports=list(old.opset_import))
    done.ir_version = old.ir_version
    onnx.save(done, str(out))


def _needed(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """The nodes that `name` is computed from, in the order they stand in."""
    maker = {o: n for n in graph.node for o in n.output}
    wanted, seen = [name], set()
    while wanted:
        one = wanted.pop()
        if one in maker and one not in seen:
            seen.add(one)
            wanted += maker[one].input
    return [n for n in graph.node if any(o in seen for o in n.output)]


def _check(fit: Adapted, spread: Array, train: LengthTable, out: Path) -> None:
    model = LengthModel(out, provider="cpu")
    prompts = train.prompts[:50]
    want = fit.log_tokens(*fit.viewer.views_and_ids(prompts))
    worst = 0.0
    for prompt, row in zip(prompts, want, strict=True):
        names = ["*", *fit.kernel.llms]
        got = model.run(model.encode_for(prompt, names))[:, 1]
        told = np.log(np.maximum(np.expm1(row + spread[:, 1]), 1.0))
        columns = [model.llm_row(name) for name in names]  # two spellings may be one LLM
        worst = max(worst, float(np.abs(got - told[columns]).max()))
    if worst > _PARITY:
        raise RuntimeError(
            f"the written model differs from the fit by {worst:.3f} log tokens; "
            "this is a fault of the export, not of your data: please report it"
        )
