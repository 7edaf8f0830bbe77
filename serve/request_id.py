"""The id of the request that is being worked on, which log lines of all processes carry."""

from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("msrrec_request_id", default="")
"""Empty outside a request."""
