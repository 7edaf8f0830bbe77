"""The exceptions that callers may catch.

MsrRecError ├── ConfigError a setting is unknown, out of range or conflicts with another ├──
DataError an input file, row or id is missing or invalid ├── EngineError a text generator can't
start, refuses or died └── ModelError a model folder is missing, incomplete or of another kind

Every message reads: where, what was found, what was expected, what to do. A bad completion is
data, not an exception: see ``msrrec.reasoning.parsing``.
"""

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s?'\"]*:[^/@\s?'\"]*@")
_SECRET_OPTION = re.compile(r"(?<=[?&])([\w.]*(?:key|secret|token|password)[\w.]*)=[^&\s'\"]*")


def hide_credentials(text: str) -> str:
    """A text in which no URI has a key, a secret or a password any more."""
    return _SECRET_OPTION.sub(r"\1=…", _CREDENTIALS.sub("", text))


class MsrRecError(Exception):
    """Base of all errors that the command line shows as one sentence with exit code 2.

    Credentials of URIs are left out of its message.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(hide_credentials(p) if isinstance(p, str) else p for p in parts))


class ConfigError(MsrRecError):
    """A setting is unknown, out of range or conflicts with another."""


class DataError(MsrRecError):
    """An input file, row or id is missing or invalid."""


class EngineError(MsrRecError):
    """A text generator can't start, refuses the API key, or died."""


class ModelError(MsrRecError):
    """A model folder is missing, incomplete or of another kind."""


def first_line(error: BaseException) -> str:
    """The first non-empty line of an exception's message, or the name of its type."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """The last non-empty line of an exception's message, where tracebacks name the cause."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    lines = [line.strip() for line in str(error).splitlines()]
    return [line for line in lines if line] or [type(error).__name__]
