"""A client of the queue service's HTTP API, with errors for people. For the lab and the CLI."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import httpx

from lengthwise_contract.explanation import Explanation
from lengthwise_contract.jobs import JobRequest, JobView
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import QueueView, SnapshotView
from lengthwise_lab.errors import BadChoice, ServiceError


class ServiceClient:
    """A client of one queue service. Use it as an async context manager.

    Every method raises `ServiceError` if the service cannot be reached or returns an error.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 30.0) -> None:
        """Create a client. `url`: the root, with or without `http://` and a trailing `/v1`."""
        self.url = root_of(url)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=timeout_s,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        )

    async def __aenter__(self) -> ServiceClient:
        """Return the client. Nothing is sent yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Whether `/readyz` returns 200. False also if nothing listens."""
        try:
            return (await self._http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def models(self) -> list[dict[str, Any]]:
        """Return the models of `/v1/models`."""
        return list((await self._call("GET", "/v1/models"))["data"])

    async def queue(self, name: str) -> QueueView:
        """Return the queue of a model."""
        return QueueView.model_validate(await self._call("GET", f"/v1/queues/{_path(name)}"))

    async def find_queue(self, name: str) -> QueueView | None:
        """Return the queue of a model; None: it does not exist."""
        try:
            return await self.queue(name)
        except ServiceError as exc:
            if exc.status == httpx.codes.NOT_FOUND:
                return None
            raise

    async def put_queue(self, name: str, settings: QueueSettings) -> None:
        """Create a queue, or replace its settings; those that are not set get their defaults."""
        body = settings.model_dump(mode="json", exclude_unset=True)
        await self._call("PUT", f"/v1/queues/{_path(name)}", body)

    async def command_queue(self, name: str, command: Literal["pause", "resume"]) -> None:
        """Pause a queue, or resume it.

        Raises:
            ServiceError: It refuses.
        """
        await self._call("POST", f"/v1/queues/{_path(name)}/{command}")

    async def patch_queue(self, name: str, changes: Mapping[str, object]) -> None:
        """Change some settings of a queue; None takes one back to its default."""
        await self._call("PATCH", f"/v1/queues/{_path(name)}", dict(changes))

    async def queues(self) -> list[QueueView]:
        """Return all queues; for admins."""
        found = (await self._call("GET", "/v1/queues"))["data"]
        return [QueueView.model_validate(view) for view in found]

    async def remove_queue(self, name: str, *, force: bool = False) -> None:
        """Remove a queue; with `force` also one that is in use."""
        await self._call("DELETE", f"/v1/queues/{_path(name)}?force={str(force).lower()}")

    async def snapshot(self, name: str, limit: int) -> SnapshotView:
        """Return the waiting, running and finished jobs, at most `limit` of each."""
        path = f"/v1/queues/{_path(name)}/snapshot?limit={limit}"
        return SnapshotView.model_validate(await self._call("GET", path))

    async def submit(self, job: JobRequest) -> JobView:
        """Submit a job."""
        body = job.model_dump(mode="json", by_alias=True)
        return JobView.model_validate(await self._call("POST", "/v1/jobs", body))

    async def job(self, job_id: str) -> JobView:
        """Return a job."""
        return JobView.model_validate(await self._call("GET", f"/v1/jobs/{_path(job_id)}"))

    async def explain(self, job_id: str) -> Explanation:
        """Return the explanation of a job's place in the queue."""
        return Explanation.model_validate(
            await self._call("GET", f"/v1/jobs/{_path(job_id)}/explain")
        )

    async def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        await self._call("DELETE", f"/v1/jobs/{_path(job_id)}")

    def stream(
        self, path: str, headers: dict[str, str]
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Open a stream of events. Its read timeout is longer than the interval of keep-alives."""
        return self._http.stream("GET", path, headers=headers, timeout=httpx.Timeout(30, read=90))

    async def only_model(self, model: str | None) -> str:
        """Return `model`, or the only model, or the only one that has workers.

        Raises:
            BadChoice: There is none, there are several, or `model` is not one of them.
        """
        served = [str(m["id"]) for m in await self.models()]
        if model is None and len(served) > 1:
            # Only an admin's key shows workers; other users must choose.
            queues = (await self._call("GET", "/v1/queues"))["data"]
            working = [str(q["name"]) for q in queues if q.get("workers")]
            served = working if len(working) == 1 else served
        return choose_model(served, model, where=self.url)

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TransportError as exc:
            raise ServiceError(
                f"nothing answers at {self.url} ({exc or type(exc).__name__}). Is it running? "
                "Start it with `lengthwise up`, or point --url at it."
            ) from exc
        if response.is_error:
            message = f"{method} {path}: {error_message(response)}"
            if response.status_code == httpx.codes.UNAUTHORIZED:
                message += ". The commands send the key in LENGTHWISE_API_KEY."
            raise ServiceError(message, status=response.status_code)
        return response.json() if response.content else None


def root_of(url: str) -> str:
    """Return a server's root URL for `host:8000`, `http://host:8000/v1/` and so on."""
    root = url.rstrip("/").removesuffix("/v1")
    return root if "://" in root else f"http://{root}"


def choose_model(served: list[str], wanted: str | None, *, where: str) -> str:
    """Return the wanted model if it is served, or the only one if none is wanted.

    Raises:
        BadChoice: There is no such model; the message lists the models.
    """
    listed = ", ".join(served) or "none"
    if wanted is not None and wanted not in served:
        raise BadChoice(f"{where} does not serve {wanted!r}; it serves: {listed}")
    if wanted is None and len(served) != 1:
        raise BadChoice(f"{where} serves {len(served)} models ({listed}): choose with --model NAME")
    return wanted if wanted is not None else served[0]


def error_message(response: httpx.Response) -> str:
    """Return the message of an OpenAI error, or the body of another response, with its status."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:500]
    return f"{message} (HTTP {response.status_code})"


def _path(name: str) -> str:
    """Quote a name for a path. Slashes in a model's name are kept."""
    return quote(name, safe="/")
