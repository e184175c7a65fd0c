"""List the models of a running engine. Used by the local stack and by `lengthwise bench serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx

from lengthwise_cli.errors import BadUsage
from lengthwise_lab.loadtest.client import root_of


@dataclass(frozen=True, kw_only=True)
class EngineModel:
    """A model as the engine lists it.

    Attributes:
        max_model_len: Its context length, tokens; None: not reported.
        folder: The folder that it is from, or its name if the engine does not report one.
    """

    max_model_len: int | None
    folder: Path


async def engine_models(url: str, api_key: str | None) -> dict[str, EngineModel]:
    """Return the models that an engine serves, by name.

    Raises:
        BadUsage: It does not answer as an OpenAI endpoint does.
    """
    root = root_of(url)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with httpx.AsyncClient(timeout=10, headers=headers) as http:
            response = await http.get(f"{root}/v1/models")
            response.raise_for_status()
            return {
                str(model["id"]): EngineModel(
                    max_model_len=model.get("max_model_len"),
                    folder=Path(str(model.get("root") or model["id"])),
                )
                for model in response.json()["data"]
            }
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as exc:
        reason = exc if str(exc) else type(exc).__name__
        raise BadUsage(
            f"the engine at {root} does not list its models: {reason}. Check that it runs, "
            "--engine-url, and --engine-api-key if it requires a key."
        ) from exc
