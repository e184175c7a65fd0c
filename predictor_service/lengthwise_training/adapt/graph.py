"""Writes the ONNX graph of an adapted model.

The graph of the model it starts from is cut behind its kernel view, and the fit is put there
instead. Called by `adapted_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lengthwise_predictor.view import LEFT, PAIR_BUCKETS, RIGHT
from lengthwise_training.adapt.adapted_predictor import AdaptedPredictor

Array = NDArray[np.float64]


def write_graph(fit: AdaptedPredictor, spread: Array, model: Path, out: Path) -> None:
    """Write the old graph up to the view, then the fit: see `AdaptedPredictor.log_tokens`."""
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
    view = fit.extractor.view_name
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
    # The words; id 0 is padding, and pairs with it do not count.
    vocabulary, table = fit.words.vocabulary, fit.words.table
    zero_id = constant("zero_id", np.array(0, dtype=np.int64))
    node("Equal", ["ids", zero_id], "is_padding")
    node("Not", ["is_padding"], "is_present")
    node("Cast", ["is_present"], "present", to=TensorProto.FLOAT)
    starts = constant("starts", np.array([0], dtype=np.int64))
    ones = constant("ones", np.array([1], dtype=np.int64))
    end = constant("end", np.array([np.iinfo(np.int64).max], dtype=np.int64))
    minus = constant("minus_one", np.array([-1], dtype=np.int64))
    for name in ("ids", "present"):
        node("Slice", [name, starts, minus, first], f"left_{name}")
        node("Slice", [name, ones, end, first], f"right_{name}")
    node("Mul", ["left_ids", constant("left", np.array(LEFT, dtype=np.int64))], "left_part")
    node("Mul", ["right_ids", constant("right", np.array(RIGHT, dtype=np.int64))], "right_part")
    node("Add", ["left_part", "right_part"], "pair_hash")
    node("Mod", ["pair_hash", constant("pairs", np.array(PAIR_BUCKETS, np.int64))], "pair_rows")
    node("Mul", ["left_present", "right_present"], "pair_is_present")
    tables = {"token": (table[:vocabulary], "ids", "present")}
    tables["pair"] = (table[vocabulary:], "pair_rows", "pair_is_present")
    for name, (values, rows, present) in tables.items():
        node("Gather", [constant(f"{name}_table", values), rows], f"{name}_values")
        node("Mul", [f"{name}_values", present], f"{name}_present")
        node("ReduceSum", [f"{name}_present", first], f"{name}_sum", keepdims=1)
        node("ReduceSum", [present, first], f"{name}_count", keepdims=1)
    node("Add", ["token_sum", "pair_sum"], "word_sum")
    node("Add", ["token_count", "pair_count"], "word_count")
    node("Add", ["word_count", "adapted.one"], "one_more")
    node("Sqrt", ["one_more"], "word_root")
    node("Div", ["word_sum", "word_root"], "word_mean")
    node("Mul", ["word_mean", number("half", 0.5)], "by_words")
    # Both, for every LLM and quantile; then the requested LLM's are selected.
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
    """Return the nodes that `name` is computed from, in their order."""
    maker = {o: n for n in graph.node for o in n.output}
    names, seen = [name], set()
    while names:
        one = names.pop()
        if one in maker and one not in seen:
            seen.add(one)
            names += maker[one].input
    return [n for n in graph.node if any(o in seen for o in n.output)]
