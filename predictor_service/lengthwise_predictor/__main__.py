"""Run the predictor: `python -m lengthwise_predictor`, configured by `LENGTHWISE_PREDICTOR_...`."""

from __future__ import annotations

import sys

import uvicorn
from pydantic import ValidationError

from lengthwise_contract import logs
from lengthwise_predictor.app import create_app
from lengthwise_predictor.settings import PredictorSettings


def _bad_settings(wrong: ValidationError) -> str:
    """Return one line for each missing or wrong variable, without the value it holds."""
    lines = []
    for error in wrong.errors(include_url=False, include_input=False, include_context=False):
        name = "_".join(str(part) for part in error["loc"]).upper() or "*"
        message = error["msg"].removeprefix("Value error, ")
        lines.append(f"lengthwise_predictor: LENGTHWISE_PREDICTOR_{name}: {message}\n")
    return "".join(lines)


def main() -> None:
    """Run the service until it is stopped; exit with 2 if a setting is wrong.

    Raises:
        SystemExit: The start failed; the message gives the reason.
    """
    try:
        settings = PredictorSettings()
    except ValidationError as exc:
        sys.stderr.write(_bad_settings(exc))
        sys.exit(2)
    logs.set_up(settings.log_level.upper())
    app = create_app(settings)
    try:
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            log_config=None,  # its loggers use the handler of `set_up`
            log_level=settings.log_level,
            access_log=False,
        )
    except SystemExit:
        if not app.state.unusable:
            raise
        # Kubernetes keeps the last line, and a condition of the LLMService shows it. Uvicorn's own
        # last line reports only that the start failed.
        sys.exit(app.state.unusable)


if __name__ == "__main__":
    main()
