"""A worker with a planted bug, for test_chaos.py: its store forgets to ask whose lease it is.

Without fencing, a worker that was stopped past its lease goes on with a job that another one has.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys

from lengthwise_store import base, lua_loader
from lengthwise_worker.__main__ import main

_FENCE = re.compile(r'record\[1\] ~= "running" or record\[2\] ~= nonce')


def load_without_fences() -> dict[str, lua_loader.AnswerScript]:
    """The scripts, in which a worker's word counts whether or not its lease stands."""
    loaded = lua_loader.load_all()
    for name in ("beat", "emit", "finish"):
        text, found = _FENCE.subn('record[1] == "never"', loaded[name].text)
        if found != 1:
            raise RuntimeError(f"{name}.lua has no fence to leave out: {found}")
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        loaded[name] = dataclasses.replace(loaded[name], text=text, sha=sha)
    return loaded


if __name__ == "__main__":
    base.load_all = load_without_fences  # type: ignore[attr-defined]
    sys.exit(main())
