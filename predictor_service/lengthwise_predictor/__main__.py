"""`python -m lengthwise_predictor`: serve, as `LENGTHWISE_PREDICTOR_...` says."""

from __future__ import annotations

import logging
import sys

import uvicorn
from pydantic import ValidationError

from lengthwise_predictor.app import create_app
from lengthwise_predictor.settings import PredictorSettings


def _bad_settings(wrong: ValidationError) -> str:
    """One line for each variable that is missing or wrong; what it holds is not repeated."""
    lines = []
    for error in wrong.errors(include_url=False, include_input=False, include_context=False):
        name = "_".join(str(part) for part in error["loc"]).upper() or "*"
        said = error["msg"].removeprefix("Value error, ")
        lines.append(f"lengthwise_predictor: LENGTHWISE_PREDICTOR_{name}: {said}\n")
    return "".join(lines)


def main() -> None:
    """Run the service until it is told to stop; exit with 2 if a setting is wrong.

    Raises:
        SystemExit: It did not start; the message says why.
    """
    try:
        settings = PredictorSettings()
    except ValidationError as exc:
        sys.stderr.write(_bad_settings(exc))
        sys.exit(2)
    logging.basicConfig(level=settings.log_level.upper())
    app = create_app(settings)
    try:
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            log_level=settings.log_level,
            access_log=False,
        )
    except SystemExit:
        if not app.state.unusable:
            raise
        # The last line is what Kubernetes keeps and a condition of the LLMService shows; uvicorn's
        # own says only that it did not start.
        sys.exit(app.state.unusable)


if __name__ == "__main__":
    main()
