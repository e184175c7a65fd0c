"""Whose request, and whose job. Every route about a job passes through here, and no other way.

A job of another tenant is answered exactly as one that never existed: same status, same body, and
the same reads from Redis, so that the time tells nothing either.
"""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from lengthwise_queue.errors import AdminOnly, JobNotFound, WrongKey
from lengthwise_queue.scheduling.snapshot import QueueSnapshot, no_such_model
from lengthwise_queue.service import Service, of
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.jobs import Job

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="An API key. In the open mode none is needed, and any is taken.",
)


async def authenticate(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    """Find out whose request it is, before anything of it is read; `tenant_of` tells.

    Raises:
        WrongKey: It has no key, or a wrong one.
    """
    service = of(request)
    try:
        request.state.tenant = service.tenants.authenticate(
            None if given is None else given.credentials
        )
    except WrongKey:
        service.metrics.unauthorized.inc()
        raise


#: What every router but that of health and metrics has as its `dependencies`.
SECURED = [Depends(authenticate)]


def tenant_of(request: Request) -> Tenant:
    """The tenant that a request comes from. Its router must be `SECURED`."""
    return cast(Tenant, request.state.tenant)


def admin_of(request: Request) -> Tenant:
    """The same, where it must be an admin; asked before anything is looked up.

    Raises:
        AdminOnly: It is none.
    """
    tenant = tenant_of(request)
    if not tenant.admin:
        raise AdminOnly(
            "Only an admin's key may do this. Use one whose tenant has `admin: true`, or ask the "
            "operator of this service."
        )
    return tenant


def named_by(request: Request, name: str | None) -> str:
    """Whose jobs are to be listed: one's own, or those of the tenant that an admin names.

    Raises:
        AdminOnly: Another's are asked for, by one who is no admin.
    """
    tenant = tenant_of(request)
    if name is None or name == tenant.name:
        return tenant.name
    admin_of(request)
    return name


def owns(tenant: Tenant, owner: str) -> bool:
    """Whether a tenant may see and withdraw what belongs to `owner`, the name of a tenant."""
    return tenant.admin or tenant.name == owner


def require(tenant: Tenant, job: Job | None) -> Job:
    """A job that was looked for, if there is one and it is this tenant's.

    Raises:
        JobNotFound: There is none, or it is another's; nobody can tell which.
    """
    if job is None or not owns(tenant, job.tenant):
        raise JobNotFound(
            "There is no such job. Its id may be wrong, or it finished too long ago to be kept."
        )
    return job


async def find_job(service: Service, tenant: Tenant, job_id: str) -> Job:
    """A tenant's job by its id.

    Raises:
        JobNotFound: There is none, or it is another's.
        StoreUnavailable: Redis does not answer.
    """
    return require(
        tenant, await service.store.find(job_id, tenant=None if tenant.admin else tenant.name)
    )


async def snapshot_of(service: Service, tenant: Tenant, name: str) -> QueueSnapshot:
    """A queue that a tenant may use, at most a second old.

    Raises:
        ModelNotFound: There is none of that name, or it may not; nobody can tell which.
        StoreUnavailable: Redis does not answer.
    """
    # The pattern first: a name outside it is answered alike whether it exists or not.
    if not tenant.may_use(name):
        raise no_such_model(name)
    return await service.queue_cache.get(name)
