"""`python -m lengthwise_training.latency --model DIR`: what one prediction costs, on one CPU core.

From the string to the quantiles, without HTTP. With torch installed, BERT-base by PyTorch on the
same core is timed beside it, as the yardstick: random weights, which compute as long as real ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lengthwise_predictor.model import LengthModel
from lengthwise_predictor.settings import BUNDLED

_WORDS = (
    "Explain to a new colleague how our billing system works and which reports they should read "
    "first, then list the questions that they ought to ask before they change anything at all. "
)


def text_of(model: LengthModel, tokens: int) -> str:
    """A text of about this many tokens."""
    text = _WORDS
    while model.count_tokens(text) < tokens:
        text += _WORDS
    return " ".join(text.split()[: int(len(text.split()) * tokens / model.count_tokens(text))])


def timed(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """p50 and p99 of a call, ms."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def bert_base(tokens: int) -> Callable[[], object]:
    """One forward pass of BERT-base, one text, one thread."""
    import torch
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    bert = BertModel(BertConfig()).eval()
    ids = torch.randint(1000, 20_000, (1, tokens))

    def call() -> object:
        with torch.inference_mode():
            return bert(input_ids=ids)

    return call


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED, help="folder with model.onnx")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--bert", action="store_true", help="time BERT-base as well")
    options = parser.parse_args(arguments)
    model = LengthModel(options.model, provider="cpu", intra_op_threads=1)
    model.warm_up(1)
    print("| what | tokens | p50 ms | p99 ms |\n|---|---|---|---|")  # noqa: T201
    for tokens in (16, 64, 256, 1024):
        text = text_of(model, tokens)
        p50, p99 = timed(lambda text=text: model.predict(text, "*"), options.repeats)  # type: ignore[misc]
        print(f"| this model | {model.count_tokens(text)} | {p50:.2f} | {p99:.2f} |")  # noqa: T201
    if options.bert:
        p50, p99 = timed(bert_base(256), max(10, options.repeats // 10))
        print(f"| BERT-base, PyTorch | 256 | {p50:.2f} | {p99:.2f} |")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
