"""Base classes of the HTTP bodies, and the body of an error.

Imported by the other modules of the contract, and by each service that answers HTTP requests.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Body(BaseModel):
    """A body that a client sends. An unknown field is an error that names the field."""

    model_config = ConfigDict(extra="forbid")


class View(BaseModel):
    """A body that a service returns. A reader ignores fields that a newer sender has added."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class ErrorObject(View):
    """An error in OpenAI's form."""

    message: str = Field(description="What is wrong, and what to do about it")
    type: str = Field(description="The kind of error, as at OpenAI")
    param: str | None = Field(
        description="The field, parameter or header that is wrong; null: none in particular"
    )
    code: str | None = Field(
        description="A stable name of the error; null: `type` is specific enough"
    )
    job_id: str | None = Field(
        default=None,
        description="The job that the error is about: it was accepted, or may have been; left out "
        "if there is none",
    )


class ErrorBody(View):
    """The body of every error."""

    error: ErrorObject
