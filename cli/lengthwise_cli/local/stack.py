"""The local stack: Valkey, the predictor, the queue service and one worker, in that order.

Called by the commands `up` and `demo`. processes.py describes the processes; supervisor.py keeps
them alive.
"""

from __future__ import annotations

import asyncio
import fcntl
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import IO

from lengthwise_cli.engine_models import engine_models
from lengthwise_cli.errors import BadUsage
from lengthwise_cli.local import ports, processes, weights
from lengthwise_cli.local.settings import StackEngine, StackSettings
from lengthwise_cli.local.supervisor import Child, Supervisor
from lengthwise_cli.local.weights_download import fetch_weights
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.loadtest.client import ServiceClient, choose_model


class Stack:
    """A local stack. As an async context manager it stops everything on leaving, worker first."""

    def __init__(self, settings: StackSettings, notify: Callable[[str], None]) -> None:
        """Build a stack; nothing runs yet.

        Args:
            settings: What the user chose.
            notify: Called with one line of text at each event that the user should see.
        """
        self.settings = settings
        self.model = ""  #: Known once started.
        self.engine_url = settings.engine_url  #: The engine itself; known once started.
        self.engine_api_key = settings.engine_api_key or secrets.token_urlsafe(24)
        self._notify = notify
        self._supervisor = Supervisor(notify)
        self._lock: IO[str] | None = None
        self._redis_url = settings.redis_url or ""
        self._fresh_queue = QueueSettings()  #: The settings of a new queue of this engine.

    @property
    def url(self) -> str:
        """The URL of the queue service."""
        host = self.settings.host
        reachable = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
        return f"http://{reachable}:{self.settings.port}"

    def pids(self) -> dict[str, int]:
        """Process id of each running process, by name."""
        return self._supervisor.pids()

    async def __aenter__(self) -> Stack:
        """Start; see `start`."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; see `stop`."""
        await self.stop()

    async def start(self) -> None:
        """Start everything and wait until it can serve; on an error, `stop` cleans up.

        Raises:
            BadUsage: A port is taken, the data directory is in use, or a package is missing.
            ChildFailed: A process did not come up.
        """
        settings = self.settings
        if not ports.is_free(settings.port, settings.host):
            raise BadUsage(
                f"port {settings.port} on {settings.host} is in use: stop what listens there, or "
                "choose another with --port (or LENGTHWISE_UP_PORT)"
            )
        self._lock_data_dir()
        self.model, self._fresh_queue = await self._resolve_model()
        taken = {settings.port}
        if settings.redis_url is None:
            taken.add(port := ports.find_free(taken))
            self._redis_url = f"redis://127.0.0.1:{port}/0"
            await self._start_child(processes.valkey(settings, port, self._redis_url))
        elif not await processes.redis_answers(settings.redis_url):
            raise BadUsage(
                "no Redis or Valkey answers at --redis-url; start it, or correct the URL"
            )
        taken.add(predictor_port := ports.find_free(taken))
        await self._start_child(processes.predictor(settings, predictor_port))
        await self._start_child(
            processes.queue_service(settings, self.url, self._redis_url, predictor_port)
        )
        async with ServiceClient(self.url, api_key=settings.api_key) as service:
            await self._put_queue(service, self._fresh_queue)
        engine_port = ports.find_free(taken)
        if settings.engine_url is None:
            self.engine_url = f"http://127.0.0.1:{engine_port}"
        await self._start_worker(self.model, engine_port)

    async def add_queue(self, name: str, changes: Mapping[str, object]) -> None:
        """Add a queue to a started stack, with a worker and an embedded engine of its own.

        The queues share Valkey, the predictor and the queue service.

        Args:
            name: Of the queue, and of its model.
            changes: What differs in its settings from a new queue of this stack.

        Raises:
            ChildFailed: The worker did not come up.
        """
        fresh = self._fresh_queue.model_dump(exclude_unset=True)
        wanted = QueueSettings.model_validate({**fresh, **changes})
        async with ServiceClient(self.url, api_key=self.settings.api_key) as service:
            await service.put_queue(name, wanted)
        await self._start_worker(name, ports.find_free({self.settings.port}))

    async def stop(self) -> None:
        """Stop everything: the worker drains first, Valkey goes last."""
        await self._supervisor.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _start_worker(self, model: str, engine_port: int) -> None:
        await self._start_child(
            processes.worker(
                self.settings,  # with the path of the weights
                url=self.url,
                redis_url=self._redis_url,
                model=model,
                engine_port=engine_port,
                engine_api_key=self.engine_api_key,
                log_name="worker" if model == self.model else f"worker-{model}",
            )
        )

    async def _start_child(self, child: Child) -> None:
        self._notify(f"starting {child.name} ...")
        await self._supervisor.start(child)

    def _lock_data_dir(self) -> None:
        """Lock the data directory: two stacks must not write one append-only file."""
        folder = self.settings.data_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
        except OSError as exc:
            raise BadUsage(f"cannot write to --data-dir {folder}: {exc.strerror}") from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise BadUsage(
                f"another `lengthwise up` uses {folder}: stop it, or choose another --data-dir"
            ) from exc

    async def _resolve_model(self) -> tuple[str, QueueSettings]:
        """Return the served model's name and the settings for its queue."""
        settings = self.settings
        if settings.engine is StackEngine.LLAMA_CPP:
            path = settings.model_path or weights.bundled_weights()
            if path is None:
                path = await asyncio.to_thread(fetch_weights, self._notify)
            if not path.is_file():
                raise BadUsage(f"there is no file {path}; --model-path must name a GGUF file")
            self.settings = replace(settings, model_path=path)
            tokenizer = settings.tokenizer or weights.write_tokenizer(
                path, settings.data_dir / "tokenizers"
            )
            queue = QueueSettings(
                max_model_len=min(
                    settings.context_tokens,
                    weights.context_length(path) or settings.context_tokens,
                ),
                tokenizer=None if tokenizer is None else str(tokenizer.resolve()),
            )
            return settings.model or "smollm2", queue
        if settings.engine_url is None:
            if settings.engine is StackEngine.SIMULATED:
                return settings.model or "simulated", QueueSettings()
            raise BadUsage(f"--engine {settings.engine} needs --engine-url, e.g. http://host:8000")
        served = await engine_models(settings.engine_url, settings.engine_api_key)
        model = choose_model(list(served), settings.model, where=settings.engine_url)
        limit, folder = served[model].max_model_len, served[model].folder
        # vLLM names the folder it serves from; if that is on this machine, its tokenizer is too.
        tokenizer = settings.tokenizer or folder / "tokenizer.json"
        if settings.tokenizer is None and not tokenizer.is_file():
            return model, QueueSettings(max_model_len=limit)
        return model, QueueSettings(max_model_len=limit, tokenizer=str(tokenizer.resolve()))

    async def _put_queue(self, service: ServiceClient, fresh: QueueSettings) -> None:
        """Create the queue, or apply the flags to the existing one."""
        changes: dict[str, object] = {
            "max_model_len": fresh.max_model_len,
            "tokenizer": fresh.tokenizer,
            "policy": self.settings.policy,
            "overtake_factor": self.settings.overtake_factor,
            "overtake_wait_factor": self.settings.overtake_wait_factor,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if await service.find_queue(self.model):
            await service.patch_queue(self.model, changes)
        else:
            await service.put_queue(self.model, QueueSettings.model_validate(changes))
