"""Adds the view of a request to the graph of a bundled model, without training it again.

`python -m lengthwise_training.bundled.view_outputs --model DIR --data DIR --version NAME` changes a
folder in place; `train` does the same with what it has written. The queue service learns from views
(`lengthwise_predictor.view`). All numbers come from the pass that is made anyway, for no LLM in
particular, scaled by the means and spreads that the training prompts have.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lengthwise_predictor.model import Encoded, LengthModel
from lengthwise_training.bundled.dataset import Dataset, build_dataset, read_records
from lengthwise_training.bundled.train_config import TrainConfig, served_llms
from lengthwise_training.data.splits import fold_of

Array = NDArray[np.float64]

#: Name of the added output.
VIEW = "view"

#: Principal components kept of the encoder's states, and what they are divided by.
_COMPONENTS, _STATE_SCALE = 64, 8.0

#: Counts are cut at so many standard deviations.
_MOST_COUNT = 4.0

#: About the usual distance in logs of p10 and p90 from p50; it centres the spread.
_USUAL_SPREAD = 0.6


@dataclass(frozen=True)
class _Tensors:
    """Names of the tensors that a view is made of.

    Attributes:
        everyone: float32, (batch, 1 + llms, 4), log quantiles of any LLM and of each known one.
        kernel: float32, (batch, columns), the kernel's view.
        state: float32, (batch, width), the encoder's mean state.
    """

    everyone: str
    kernel: str
    state: str


@dataclass(frozen=True)
class _Scales:
    """What the training prompts say about the scale of each number; float64."""

    count_centre: Array
    count_spread: Array
    llm_centre: Array
    state_centre: Array
    state_axes: Array


def add_view(directory: Path, prompts: Sequence[str], *, version: str) -> list[int]:
    """Add the view to the model in a folder, in place, or replace it.

    Args:
        directory: Written by `int8_export`.
        prompts: Those that the scales are taken from; they must be redistributable.
        version: The model's new version: a view belongs to one version.

    Returns:
        The columns of each part, as in the card.

    Raises:
        ValueError: The graph is not that of a bundled model.
    """
    path, card_path = directory / "model.onnx", directory / "model.json"
    model = onnx.load(str(path))
    _remove(model.graph)
    tensors = _tensors(model.graph)
    card = json.loads(card_path.read_text(encoding="utf-8"))
    card.pop("view", None)
    card_path.write_text(_as_text(card), encoding="utf-8")
    onnx.save(model, str(path))
    encoder = LengthModel(directory, provider="cpu")
    scales = _fit(model, tensors, [encoder.encode(p, "*") for p in prompts])
    widths = _append(model.graph, tensors, scales)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    card |= {"version": version, "view": widths}
    if isinstance(card.get("config"), dict):
        card["config"]["version"] = version
    card_path.write_text(_as_text(card), encoding="utf-8")
    return widths


def prompts_for_scales(dataset: Dataset, config: TrainConfig) -> list[str]:
    """Choose prompts: those with answers of served LLMs, and of the others as training thins them.

    GSM8K alone would be two thirds of all prompts.
    """
    served = set(np.unique(dataset.prompt_index[np.isin(dataset.llm_index, served_llms(dataset))]))
    return [
        prompt
        for i, (prompt, source) in enumerate(zip(dataset.prompts, dataset.sources, strict=True))
        if i in served or fold_of(prompt, 100) < 100 * config.thinned.get(source, 1.0)
    ]


def _as_text(card: dict[str, Any]) -> str:
    return json.dumps(card, indent=2, ensure_ascii=False) + "\n"


def _tensors(graph: onnx.GraphProto) -> _Tensors:
    maker = {o: n for n in graph.node for o in n.output}
    last = maker[graph.output[0].name]
    if last.op_type == "Gather":  # takes the one row of the requested LLM
        last = maker[last.input[0]]
    if last.op_type != "GatherElements":
        raise ValueError(f"the graph ends in {last.op_type}: it is no bundled model")
    centred = next(n for n in graph.node if "view.sense_centre" in n.input)
    made = {o for n in graph.node if n.name.startswith("/view/") for o in n.output}
    read = [i for n in graph.node if n.name.startswith("/regression/") for i in n.input]
    kernel = next(name for name in read if name in made)
    return _Tensors(last.input[0], kernel, centred.input[0])


def _remove(graph: onnx.GraphProto) -> None:
    """Remove an earlier view."""
    for kept in (graph.node, graph.initializer):
        for one in [o for o in kept if o.name.startswith("seen.")]:
            kept.remove(one)
    for output in [o for o in graph.output if o.name == VIEW]:
        graph.output.remove(output)


def _fit(model: onnx.ModelProto, tensors: _Tensors, texts: Sequence[Encoded]) -> _Scales:
    """Run the model on some texts and take the scales of what it computes."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in (tensors.everyone, tensors.state):
        probe.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(
        probe.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],  # see `lengthwise_predictor.model`
    )
    inputs = {i.name for i in session.get_inputs()}
    medians, states = [], []
    for e in texts:
        feed = {
            "ids": np.array([e.ids], dtype=np.int64),
            "features": e.features[None],
            "llm": np.zeros(1, dtype=np.int64),
        }
        everyone, state = session.run(None, {k: v for k, v in feed.items() if k in inputs})
        medians.append(everyone[0, :, 1])
        states.append(state[0])
    counts = np.array([e.features for e in texts], dtype=np.float64)
    all_states = np.array(states, dtype=np.float64)
    centre = all_states.mean(axis=0)
    values, directions = np.linalg.eigh(np.cov((all_states - centre).T))
    kept = min(_COMPONENTS, len(texts) - 1, len(values))
    values, directions = values[::-1][:kept], directions[:, ::-1][:, :kept]
    axes = directions / np.sqrt(np.maximum(values, 1e-8)) / _STATE_SCALE
    return _Scales(
        count_centre=counts.mean(axis=0),
        count_spread=np.maximum(counts.std(axis=0), 0.01),
        llm_centre=np.array(medians, dtype=np.float64).mean(axis=0),
        state_centre=centre,
        state_axes=axes,
    )


def _append(graph: onnx.GraphProto, tensors: _Tensors, scales: _Scales) -> list[int]:
    """Append the nodes and the output, in place; return the columns of each part."""

    def constant(name: str, value: Any, kind: type = np.float32) -> str:
        array: NDArray[Any] = np.array(value, dtype=kind, order="C")
        graph.initializer.append(numpy_helper.from_array(array, f"seen.{name}"))
        return f"seen.{name}"

    def node(kind: str, inputs: list[str], result: str, **attributes: Any) -> str:
        made = helper.make_node(kind, inputs, [f"seen.{result}"], f"seen.{result}", **attributes)
        graph.node.append(made)
        return f"seen.{result}"

    any_llm, median = (
        node("Gather", [tensors.everyone, constant("zero", 0, np.int64)], "any", axis=1),
        constant("median_at", [1], np.int64),
    )
    s = node("Gather", [any_llm, median], "s", axis=1)
    usual = constant("usual", _USUAL_SPREAD)
    p10, ends = (
        node("Gather", [any_llm, constant("low_at", [0], np.int64)], "low", axis=1),
        node("Gather", [any_llm, constant("ends_at", [2, 3], np.int64)], "ends", axis=1),
    )
    below, above = node("Sub", [s, p10], "below"), node("Sub", [ends, s], "above")
    gaps = node("Concat", [below, above], "gaps", axis=1)
    spread = node("Sub", [gaps, usual], "spread")
    medians = node("Gather", [tensors.everyone, constant("one", 1, np.int64)], "medians", axis=2)
    apart = node("Sub", [medians, constant("llm_centre", scales.llm_centre)], "apart")
    level = node("ReduceMean", [apart], "level", axes=[1], keepdims=1)
    diff = node("Sub", [apart, level], "diff")
    centred = node("Sub", ["features", constant("count_centre", scales.count_centre)], "centred")
    scaled = node("Div", [centred, constant("count_spread", scales.count_spread)], "scaled")
    bounds = constant("low_bound", -_MOST_COUNT), constant("high_bound", _MOST_COUNT)
    bounded = node("Clip", [scaled, *bounds], "bounded")
    root = constant("root", float(np.sqrt(len(scales.count_centre))))
    counts = node("Div", [bounded, root], "counts")
    moved = node("Sub", [tensors.state, constant("state_centre", scales.state_centre)], "moved")
    state = node("MatMul", [moved, constant("state_axes", scales.state_axes)], "state")
    parts = [s, spread, diff, counts, tensors.kernel, state]
    graph.node.append(helper.make_node("Concat", parts, [VIEW], "seen.view", axis=1))
    kernel = next(
        numpy_helper.to_array(i).shape[-2]
        for n in graph.node
        if n.name == "/regression/MatMul"
        for i in graph.initializer
        if i.name == n.input[1]
    )
    llms, columns = len(scales.llm_centre), len(scales.count_centre)
    widths = [1, 3, llms, columns, int(kernel), scales.state_axes.shape[1]]
    graph.output.append(
        helper.make_tensor_value_info(VIEW, TensorProto.FLOAT, ["batch", sum(widths)])
    )
    return widths


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and change the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a bundled model")
    parser.add_argument("--data", type=Path, required=True, help="folder of length records")
    parser.add_argument("--version", required=True, help="the model's new version")
    options = parser.parse_args(arguments)
    config = TrainConfig()
    dataset = build_dataset(read_records(options.data, sources=config.sources))
    add_view(options.model, prompts_for_scales(dataset, config), version=options.version)
    return 0


if __name__ == "__main__":
    sys.exit(main())
