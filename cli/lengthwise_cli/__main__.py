"""Entry point of the `lengthwise` command; names the extra to install if one is missing.

`pip install lengthwise` without an extra installs this script too.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exit 1 with one line if its dependencies are not installed."""
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
