"""`python -m lengthwise_predictor`: serve, as `LENGTHWISE_PREDICTOR_...` says."""

from __future__ import annotations

import logging

import uvicorn

from lengthwise_predictor.app import create_app
from lengthwise_predictor.settings import PredictorSettings


def main() -> None:
    """Run the service until it is told to stop."""
    settings = PredictorSettings()
    logging.basicConfig(level=settings.log_level.upper())
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        log_level=settings.log_level,
        access_log=False,
    )


if __name__ == "__main__":
    main()
