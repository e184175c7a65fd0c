"""Authenticate requests, and check which tenant a job belongs to.

Every route about a job calls this module. A job of another tenant gets the same answer as a job
that never existed: the same status, the same body and the same reads from Redis, so that the
response time reveals nothing either. `QueueCache.get` does the same for queues.
"""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from lengthwise_queue.errors import AdminOnly, JobNotFound, WrongKey
from lengthwise_queue.service import Service, of
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.jobs import Job

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="An API key. In the open mode no key is needed, and any key is accepted.",
)


async def authenticate(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    """Find the tenant of a request before its body is read; `tenant_of` returns it.

    Raises:
        WrongKey: The request has no key, or a wrong one.
    """
    service = of(request)
    try:
        request.state.tenant = service.tenants.authenticate(
            None if given is None else given.credentials
        )
    except WrongKey:
        service.metrics.unauthorized.inc()
        raise


#: The `dependencies` of every router except that of health and metrics.
SECURED = [Depends(authenticate)]


def tenant_of(request: Request) -> Tenant:
    """Return the tenant that sent a request. Its router must be `SECURED`."""
    return cast(Tenant, request.state.tenant)


def admin_of(request: Request) -> Tenant:
    """Return the tenant of a request that only an admin may send; called before any look-up.

    Raises:
        AdminOnly: The tenant is not an admin.
    """
    tenant = tenant_of(request)
    if not tenant.admin:
        raise AdminOnly(
            "Only an admin's key may do this. Use one whose tenant has `admin: true`, or ask the "
            "operator of this service."
        )
    return tenant


def named_by(request: Request, name: str | None) -> str:
    """Return the tenant whose jobs are listed: the caller, or the tenant that an admin names.

    Raises:
        AdminOnly: The caller names another tenant, and is not an admin.
    """
    tenant = tenant_of(request)
    if name is None or name == tenant.name:
        return tenant.name
    admin_of(request)
    return name


def owns(tenant: Tenant, owner: str) -> bool:
    """Return whether a tenant may see and withdraw what belongs to `owner`, a tenant's name."""
    return tenant.admin or tenant.name == owner


def require(tenant: Tenant, job: Job | None) -> Job:
    """Return a job that was found, if it is this tenant's.

    Raises:
        JobNotFound: There is no such job, or it is another tenant's. The two cases cannot be told
            apart.
    """
    if job is None or not owns(tenant, job.tenant):
        raise JobNotFound(
            "There is no such job. Its id may be wrong, or it finished too long ago to be kept."
        )
    return job


async def find_job(service: Service, tenant: Tenant, job_id: str) -> Job:
    """Find a tenant's job by its id.

    Raises:
        JobNotFound: There is no such job, or it is another tenant's.
        StoreUnavailable: Redis does not answer.
    """
    return require(
        tenant, await service.store.find(job_id, tenant=None if tenant.admin else tenant.name)
    )
