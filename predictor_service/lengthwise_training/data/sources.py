"""Known sources of length records, and the licence of each."""

from __future__ import annotations

#: Sources that the bundled model may learn from, and the licences of their prompts and lengths.
#: They allow redistribution and commercial use. docs/research/model-card.md has the excluded ones.
LICENCES = {
    "castillo/Apps": "lengths Apache-2.0, prompts MIT",
    "castillo/BigCodeBench": "lengths Apache-2.0, prompts Apache-2.0",
    "castillo/DS1000": "lengths Apache-2.0, prompts CC BY-SA 4.0",
    "castillo/DollyDataset": "lengths Apache-2.0, prompts CC BY-SA 3.0",
    "castillo/Mbpp": "lengths Apache-2.0, prompts CC BY 4.0",
    "dolly15k-part": "CC BY-SA 3.0",
    "gsm8k-example-solutions": "MIT",
    "gsm8k-train": "MIT",
    "ifeval": "Apache-2.0",
    "self-instruct-user-oriented": "Apache-2.0",
}


REDISTRIBUTABLE_SOURCES = tuple(LICENCES)
