"""The models of one process: choose a model for an LLM, and reload changed models.

Created by `app.create_app`. A model is an ONNX session and its own micro-batcher. When its folder
changes (replaced files, or a switched symbolic link in the path), or on SIGHUP, the new model is
loaded and warmed up beside the old one. New requests then go to the new model; the old one answers
the requests it holds, and is dropped. A folder that cannot be loaded changes nothing: it is counted
and logged, and `/readyz` reports the reason. Only the default model is required at start-up. If the
folder of one LLM is wrong, the default model serves that LLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from lengthwise_predictor.batching import Batcher
from lengthwise_predictor.errors import ModelUnusable, NoSuchModel, NotReady
from lengthwise_predictor.features import canonical_llm
from lengthwise_predictor.metrics import Metrics
from lengthwise_predictor.model import LengthModel
from lengthwise_predictor.settings import PredictorSettings

log = logging.getLogger(__name__)

#: Name of the model that `model_dir` holds.
DEFAULT = "default"

_FILES = ("model.json", "tokenizer.json", "model.onnx")

#: Resolved path of a folder, and time and size of each file; any change of a model changes it.
Fingerprint = tuple[str, tuple[tuple[int, int] | None, ...]]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in service, and the fingerprint of its folder when it was loaded."""

    name: str
    model: LengthModel
    batcher: Batcher
    fingerprint: Fingerprint


class ModelRegistry:
    """All models of one process; used from its event loop."""

    def __init__(self, settings: PredictorSettings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._folders = {DEFAULT: settings.model_dir, **settings.models}
        self._by_llm = {canonical_llm(name): name for name in settings.models}
        self._served: dict[str, LoadedModel] = {}
        self._refused: dict[str, Fingerprint] = {}
        self._problems: dict[str, str] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._reload_requested = asyncio.Event()
        #: One change at a time, so at most one extra model is in memory.
        self._changing = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        metrics.latency_target.set(settings.latency_target_ms / 1000)
        metrics.waiting.set_function(
            lambda: sum(served.batcher.waiting for served in self._served.values())
        )

    async def start(self) -> None:
        """Load all models, then watch their folders.

        Raises:
            ModelUnusable: The default model cannot be loaded.
        """
        self._take_over(await self._load(DEFAULT))
        for name, folder in self._folders.items():
            if name == DEFAULT:
                continue
            seen = await run_in_threadpool(_fingerprint, folder)
            try:
                self._take_over(await self._load(name))
            except ModelUnusable as exc:
                self._refuse(name, seen, exc)
        self._watch = asyncio.create_task(self._watch_folders(), name="models")

    async def stop(self) -> None:
        """Refuse what waits, and end every thread."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        served, self._served = list(self._served.values()), {}
        await asyncio.gather(*(one.batcher.stop() for one in served))
        await asyncio.gather(*self._retiring, return_exceptions=True)

    @property
    def ready(self) -> bool:
        """Whether a model is in service."""
        return bool(self._served)

    def all(self) -> list[LoadedModel]:
        """Return every model in service, the default first."""
        return list(self._served.values())

    def problem(self, name: str) -> str:
        """Return why a model's folder is not what is served; "": no problem."""
        return self._problems.get(name, "")

    def names(self) -> list[str]:
        """Return every configured model, in service or not, the default first."""
        return list(self._folders)

    def version(self, name: str) -> str:
        """Return the version of the model for the LLM of this name; "": nothing is loaded."""
        served = self._served.get(name) or self._served.get(DEFAULT)
        return served.model.version if served else ""

    def for_llm(self, llm: str, predictor: str | None = None) -> LoadedModel:
        """Return the model that serves an LLM, or the one that the request names.

        Use it before the next `await`: after that it may have been replaced.

        Raises:
            NoSuchModel: The request names a model that is not served.
            NotReady: Nothing is loaded.
        """
        if not self._served:
            raise NotReady("the model is still being loaded; try again", retry_after_s=1)
        name = predictor or self._by_llm.get(canonical_llm(llm), DEFAULT)
        if predictor is None and name not in self._served:
            name = DEFAULT
        if name not in self._served:
            raise NoSuchModel(
                f"no model {name!r} is served here; GET /v1/models lists them", param="predictor"
            )
        return self._served[name]

    def reload_soon(self) -> None:
        """Request a reload of every model, changed or not; called on SIGHUP."""
        self._refused.clear()
        self._reload_requested.set()

    async def _watch_folders(self) -> None:
        pause_s = self._settings.reload_every_s or None
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reload_requested.wait(), pause_s)
            forced = self._reload_requested.is_set()
            self._reload_requested.clear()
            try:
                await self.check_folders(forced=forced)
            except Exception:
                log.exception("the check for changed models failed")

    async def check_folders(self, *, forced: bool = False) -> None:
        """Load every model whose folder changed; with `forced`, load all."""
        async with self._changing:
            for name, folder in self._folders.items():
                now = await run_in_threadpool(_fingerprint, folder)
                served = self._served.get(name)
                if served is not None and now == served.fingerprint and not forced:
                    self._clear_problem(name)  # a refused change was undone
                elif now != self._refused.get(name) or forced:
                    await self._replace(name, now)

    async def _replace(self, name: str, seen: Fingerprint) -> None:
        try:
            new = await self._load(name)
        except ModelUnusable as exc:
            self._refuse(name, seen, exc)
            return
        except Exception as exc:
            # It would be met again at every check, and the folders behind it never be checked.
            log.exception("unexpected error while a model was loaded", extra={"model": name})
            folder = self._folders[name]
            reason = f"{folder} cannot be loaded ({type(exc).__name__}); the log has the error"
            self._refuse(name, seen, ModelUnusable(reason))
            return
        old = self._served.get(name)
        self._take_over(new)
        self._clear_problem(name)
        self._metrics.reloads.labels(name, "taken").inc()
        if old is None:  # its folder was unusable until now
            return
        retiring = asyncio.create_task(old.batcher.drain())
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        await retiring

    def _refuse(self, name: str, seen: Fingerprint, exc: ModelUnusable) -> None:
        """Keep the old model, or the default, in service until the folder changes again."""
        self._refused[name], self._problems[name] = seen, exc.message
        self._metrics.reloads.labels(name, "refused").inc()
        serving = name if name in self._served else DEFAULT
        log.warning(
            "model not loaded, another one stays in service: %s",
            exc.message,
            extra={"model": name, "serving": serving},
        )

    def _clear_problem(self, name: str) -> None:
        """Record that the served model is the one in the folder."""
        self._refused.pop(name, None)
        self._problems.pop(name, None)

    def _take_over(self, new: LoadedModel) -> None:
        old = self._served.get(new.name)
        new.batcher.start()
        self._served[new.name] = new
        if old is not None:
            self._metrics.info.remove(new.name, old.model.version, old.model.provider)
        self._metrics.info.labels(new.name, new.model.version, new.model.provider).set(1)
        self._metrics.batch_limit.labels(new.name).set_function(lambda: new.batcher.limit)
        for outcome in ("taken", "refused"):  # a counter that is absent cannot be alerted on
            self._metrics.reloads.labels(new.name, outcome)
        log.info(
            "model loaded",
            extra={
                "model": new.name,
                "version": new.model.version,
                "provider": new.model.provider,
            },
        )

    async def _load(self, name: str) -> LoadedModel:
        folder = self._folders[name]
        before = await run_in_threadpool(_fingerprint, folder)
        model = await run_in_threadpool(self._load_model, folder)
        if await run_in_threadpool(_fingerprint, folder) != before:
            raise ModelUnusable(f"{folder} changed while it was read; it will be read again")
        batcher = Batcher(
            model,
            max_batch=self._settings.max_batch,
            latency_target_ms=self._settings.latency_target_ms,
            max_waiting=self._settings.max_waiting,
            on_batch=self._record_batch,
            on_wait=self._metrics.wait_seconds.observe,
        )
        return LoadedModel(name=name, model=model, batcher=batcher, fingerprint=before)

    def _load_model(self, folder: Path) -> LengthModel:
        # The resolved folder, so that a link switched during loading does not mix two models.
        model = LengthModel(
            folder.resolve(),
            provider=self._settings.provider,
            intra_op_threads=self._settings.intra_op_threads,
        )
        model.warm_up(self._settings.max_batch)
        return model

    def _record_batch(self, size: int, seconds: float) -> None:
        self._metrics.batch_size.observe(size)
        self._metrics.batch_seconds.observe(seconds)
        if seconds * 1000 > self._settings.latency_target_ms:
            self._metrics.over_target.inc()


def _fingerprint(folder: Path) -> Fingerprint:
    try:
        real = folder.resolve()
    except (OSError, RuntimeError):  # a loop of links
        real = folder
    found: list[tuple[int, int] | None] = []
    for file in _FILES:
        try:
            seen = (real / file).stat()
            found.append((seen.st_mtime_ns, seen.st_size))
        except OSError:
            found.append(None)
    return str(real), tuple(found)
