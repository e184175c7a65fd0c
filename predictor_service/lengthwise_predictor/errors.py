"""The predictor's errors, and what a caller does about each.

```
PredictorError
├── BadRequest          400  the client changes its request
│   ├── NoSuchModel     404  the client names a model that is served
│   └── BodyTooLarge    413  the client sends less
├── Overloaded          503  the client waits `retry_after_s`, or continues without a prediction
├── NotReady            503  the model is not loaded yet; the client tries again
└── ModelUnusable       (at start-up) the operator of the service fixes the model's folder
```

Each carries the fields of OpenAI's error object; `error_responses` turns it into a response.
"""

from __future__ import annotations


class PredictorError(Exception):
    """Base class; `code`, `param` and `type` are those of OpenAI's error object."""

    code: str = "internal_error"
    type: str = "server_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        """`retry_after_s`: seconds after which a retry makes sense; None: not stated."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class BadRequest(PredictorError):
    """The request is wrong; the message says what to change."""

    type = "invalid_request_error"
    code = "invalid_request"


class BodyTooLarge(BadRequest):
    """The body is over the size limit."""

    code = "body_too_large"


class NoSuchModel(BadRequest):
    """The request names a predictor that is not served here."""

    code = "predictor_not_found"


class Overloaded(PredictorError):
    """As many texts wait for a prediction as the settings allow."""

    type = "rate_limit_error"
    code = "predictor_overloaded"


class NotReady(PredictorError):
    """The model is still being loaded, or the service is shutting down."""

    code = "not_ready"


class ModelUnusable(PredictorError):
    """A model's folder lacks a file, or its files do not belong together."""

    code = "model_unusable"
