"""Examine a machine for `lengthwise doctor`: each check returns what it found and what to do.

No check raises: what cannot be checked is a finding. Nothing is changed, and the only request that
makes an engine work is one of a single token.
"""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

import httpx

from lengthwise_cli.engine_models import engine_models
from lengthwise_cli.errors import BadUsage
from lengthwise_cli.local import machine, ports, weights
from lengthwise_cli.local.processes import valkey_binary
from lengthwise_lab.loadtest.client import ServiceClient, error_message, root_of
from lengthwise_store.errors import StoreUnavailable, StoreUnfit
from lengthwise_store.redis.connections import Connections
from lengthwise_store.redis.errors import reaching_redis, read
from lengthwise_store.redis.server_check import check_server
from lengthwise_store.redis.settings import RedisAddress
from lengthwise_store.settings import StoreSettings

#: The extras, and a module that only each of them brings.
_EXTRAS = {
    "local": "xllamacpp",
    "predictor": "onnxruntime",
    "lab": "numba",
    "operator": "kopf",
    "train": "torch",
}


class Verdict(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"  #: It works, but not as well as it could, or something optional is not there.
    MISSING = "missing"  #: `lengthwise up` cannot start, or cannot answer, without it.


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found, and what to do about it; no remedy if nothing is to be done."""

    subject: str
    verdict: Verdict
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the finding as an object of strings."""
        return asdict(self)


async def examine(
    *,
    redis_url: str | None,
    engine_url: str | None,
    engine_api_key: str | None,
    port: int,
    data_dir: Path,
) -> list[Finding]:
    """Examine this machine, and the Redis and the engine if they are named."""
    return [
        _version(),
        _cores(),
        *_extras(),
        await _redis(redis_url) if redis_url is not None else _embedded_valkey(),
        *(
            await _engine(engine_url, engine_api_key)
            if engine_url is not None
            else [_embedded_llm()]
        ),
        _predictor(),
        await _port(port),
        _folder(data_dir),
    ]


def _version() -> Finding:
    found = f"lengthwise {metadata.version('lengthwise')}, Python {platform.python_version()}"
    if sys.platform != "linux":
        remedy = "Lengthwise is tested on Linux only: on other systems use a container"
        return Finding(subject="version", verdict=Verdict.NOTE, found=found, remedy=remedy)
    return Finding(subject="version", verdict=Verdict.OK, found=found)


def _cores() -> Finding:
    cores = machine.usable_cores()
    if cores < 2:
        return Finding(
            subject="cores",
            verdict=Verdict.NOTE,
            found="1",
            remedy="the embedded LLM and the queue share it: expect slow answers, or use an "
            "engine elsewhere with --engine-url",
        )
    return Finding(subject="cores", verdict=Verdict.OK, found=str(cores))


def _extras() -> list[Finding]:
    missing = [name for name, module in _EXTRAS.items() if importlib.util.find_spec(module) is None]
    there = ", ".join(name for name in _EXTRAS if name not in missing) or "none"
    needed = [name for name in ("local", "predictor") if name in missing]
    if needed:
        remedy = f"pip install 'lengthwise[{needed[0]}]'"
        return [Finding(subject="extras", verdict=Verdict.MISSING, found=there, remedy=remedy)]
    if missing:
        remedy = f"only for some commands: pip install 'lengthwise[{','.join(missing)}]'"
        return [Finding(subject="extras", verdict=Verdict.NOTE, found=there, remedy=remedy)]
    return [Finding(subject="extras", verdict=Verdict.OK, found=there)]


def _embedded_valkey() -> Finding:
    try:
        done = subprocess.run(  # noqa: S603 - the program of the installed package
            [str(valkey_binary()), "--version"], capture_output=True, text=True, timeout=10
        )
    except (BadUsage, OSError, subprocess.TimeoutExpired) as exc:
        return Finding(
            subject="Valkey",
            verdict=Verdict.MISSING,
            found="none",
            remedy=f"{exc}",
        )
    words = dict(part.split("=", 1) for part in done.stdout.split() if "=" in part)
    return Finding(
        subject="Valkey", verdict=Verdict.OK, found=f"embedded, version {words.get('v', '?')}"
    )


async def _redis(url: str) -> Finding:
    """Check every primary as each process of Lengthwise does before it serves."""
    settings = StoreSettings(connect_timeout_s=3, command_timeout_s=5)
    try:
        connections = Connections(
            RedisAddress.parse(url),
            connect_timeout_s=settings.connect_timeout_s,
            command_timeout_s=settings.command_timeout_s,
        )
    except ValueError as exc:
        return Finding(
            subject="Redis", verdict=Verdict.MISSING, found="a malformed URL", remedy=str(exc)
        )
    try:
        with reaching_redis():
            primaries = await connections.primaries()
        try:
            versions = [str((await read(one.info("server")))["redis_version"]) for one in primaries]
            checks = [check_server(one, settings.durability, 0) for one in primaries]
            reports = [await check for check in checks]
        finally:
            for one in primaries:
                await one.aclose()
    except StoreUnfit as exc:
        return Finding(subject="Redis", verdict=Verdict.MISSING, found="unfit", remedy=str(exc))
    except StoreUnavailable as exc:
        remedy = f"start it, or correct --redis-url: {exc}"
        return Finding(subject="Redis", verdict=Verdict.MISSING, found="none", remedy=remedy)
    finally:
        await connections.aclose()
    warnings = sorted({warning for report in reports for warning in report.warnings})
    return Finding(
        subject="Redis",
        verdict=Verdict.NOTE if warnings else Verdict.OK,
        found=f"version {', '.join(sorted(set(versions)))}; primaries: {len(primaries)}",
        remedy="; ".join(warnings),
    )


def _embedded_llm() -> Finding:
    path = weights.bundled_weights()
    if path is None:
        return Finding(
            subject="LLM",
            verdict=Verdict.NOTE,
            found="the weights of SmolLM2 135M are not here",
            remedy="`lengthwise up` and `lengthwise demo` fetch them once, 93 MB",
        )
    return Finding(subject="LLM", verdict=Verdict.OK, found=f"embedded, {path.name}")


async def _engine(url: str, api_key: str | None) -> list[Finding]:
    try:
        models = await engine_models(url, api_key)
    except BadUsage as exc:
        return [Finding(subject="engine", verdict=Verdict.MISSING, found="none", remedy=str(exc))]
    if not models:
        return [
            Finding(
                subject="engine",
                verdict=Verdict.MISSING,
                found=f"{root_of(url)} serves no model",
                remedy="start it with a model",
            )
        ]
    served = ", ".join(
        name if model.max_model_len is None else f"{name} (context {model.max_model_len})"
        for name, model in models.items()
    )
    there = Finding(subject="engine", verdict=Verdict.OK, found=served)
    return [there, await _priority(root_of(url), api_key, next(iter(models)))]


async def _priority(root: str, api_key: str | None, model: str) -> Finding:
    """Ask for one token with a priority: a vLLM without that policy may refuse it."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 1,
        "priority": 1,
    }
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    began_s = time.monotonic()
    try:
        async with httpx.AsyncClient(timeout=60, headers=headers) as http:
            response = await http.post(f"{root}/v1/chat/completions", json=body)
    except httpx.HTTPError as exc:
        return Finding(
            subject="engine's answer",
            verdict=Verdict.MISSING,
            found=f"none: {exc or type(exc).__name__}",
            remedy="look at the engine's log",
        )
    if response.is_success:
        ms = 1000 * (time.monotonic() - began_s)
        return Finding(
            subject="engine's answer",
            verdict=Verdict.OK,
            found=f"one token in {ms:.0f} ms; `priority` is accepted",
        )
    message = error_message(response)
    if "priority" in message.lower():
        return Finding(
            subject="engine's answer",
            verdict=Verdict.NOTE,
            found="`priority` is refused",
            remedy="start vLLM with --scheduling-policy priority, so that requests inside it keep "
            "the queue's order",
        )
    return Finding(
        subject="engine's answer", verdict=Verdict.MISSING, found=message, remedy="fix the engine"
    )


def _predictor() -> Finding:
    """Load the bundled model and predict once."""
    try:
        import lengthwise_predictor
        from lengthwise_predictor.model import LengthModel

        folder = Path(lengthwise_predictor.__file__).parent / "bundled"
        model = LengthModel(folder, provider="cpu")
        model.predict("Hello", "any")
        began_s = time.monotonic()
        model.predict("What is the capital of France?", "any")
    except Exception as exc:  # ONNX Runtime raises classes of its own
        return Finding(
            subject="predictor",
            verdict=Verdict.MISSING,
            found=f"{exc or type(exc).__name__}",
            remedy="pip install 'lengthwise[predictor]'",
        )
    ms = 1000 * (time.monotonic() - began_s)
    return Finding(
        subject="predictor",
        verdict=Verdict.OK,
        found=f"bundled model {model.version}, one prediction in {ms:.1f} ms",
    )


async def _port(port: int) -> Finding:
    subject = f"port {port}"
    if ports.is_free(port):
        return Finding(subject=subject, verdict=Verdict.OK, found="free")
    async with ServiceClient(f"http://127.0.0.1:{port}", timeout_s=2) as service:
        ready = await service.ready()
    return Finding(
        subject=subject,
        verdict=Verdict.NOTE,
        found="a Lengthwise that is ready" if ready else "used by another program",
        remedy="" if ready else "choose another with --port, or stop what listens there",
    )


def _folder(data_dir: Path) -> Finding:
    folder = next(p for p in (data_dir.resolve(), *data_dir.resolve().parents) if p.exists())
    try:
        probe = folder / f".lengthwise-doctor-{time.time_ns()}"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        return Finding(
            subject="data folder",
            verdict=Verdict.MISSING,
            found=f"{folder}: {exc.strerror}",
            remedy="choose another with --data-dir",
        )
    return Finding(subject="data folder", verdict=Verdict.OK, found=f"{data_dir} can be written")
