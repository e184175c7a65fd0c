"""The JSONL file that `lengthwise collect` writes: it grows by whole lines only."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class CollectFailed(Exception):
    """A file cannot be used; the message names it and says what to do."""


class RowFile:
    """The output file, with one writer at a time; a context manager."""

    def __init__(self, path: Path) -> None:
        """Remember the path; entering opens the file."""
        self.path = path
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}

    def __enter__(self) -> Self:
        """Lock the file, read its rows, and cut off a line that a kill left half written.

        Raises:
            CollectFailed: It cannot be opened, another process writes it, or it holds other data.
        """
        try:
            # Prompts may be private: other users of this machine must not read a new file.
            made = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(made, "a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise CollectFailed(f"another process is writing {self.path}") from exc
        except OSError as exc:
            raise CollectFailed(f"cannot write {self.path}: {exc}") from exc
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                self.rows[(str(row["id"]), str(row["model"]))] = row
            except (ValueError, KeyError, TypeError) as exc:
                self._file.close()
                raise CollectFailed(
                    f"{self.path}, line {number} was not written by `collect`: give another --out"
                ) from exc
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(whole)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, which unlocks it."""
        self._file.close()

    def add(self, row: dict[str, Any], *, sync: bool = True) -> bool:
        """Write one row; False: the file has it already, and nothing is written.

        Args:
            row: With `id` and `model`.
            sync: It is on disk when this returns; otherwise after the next `sync`.
        """
        key = (str(row["id"]), str(row["model"]))
        if key in self.rows:
            return False
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self.rows[key] = row
        if sync:
            self.sync()
        return True

    def sync(self) -> None:
        """Sync the added rows to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
