"""Where the `lengthwise` command starts: it says what to install, if that is missing.

`pip install lengthwise` without an extra is one component's base, and has the script all the same.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exit 1 with one line if what every command needs is not installed."""
    try:
        from lengthwise_cli import main as command_line
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("lengthwise"):
            raise
        sys.exit(
            f"lengthwise: {exc.name} is not installed, which every command needs: "
            "pip install 'lengthwise[local]'"
        )
    command_line.main()


if __name__ == "__main__":
    main()
