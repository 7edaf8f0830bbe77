"""Object stores by URI: connections to buckets, and their refusals as one sentence.

Credentials and the address come from the URI, or from the environment, as for every program of the
store's provider: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION`` and
``AWS_ENDPOINT_URL`` for S3, ``GOOGLE_APPLICATION_CREDENTIALS`` for Google's store.
"""

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa
from pyarrow import fs

from msrrec.errors import DataError, first_line, hide_credentials

_BAD_URI = ("query parameter", "filesystem type", "Cannot parse URI", "Expected a", "URI")
_NO_ANSWER = ("NETWORK_CONNECTION", "curlCode", "Could not connect", "UNAVAILABLE", "timed out")
_NO_RIGHTS = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "UNRECOGNIZED_CLIENT"),
    *("SIGNATURE_DOES_NOT_MATCH", "HTTP response code: 403", "PERMISSION_DENIED"),
)


def is_uri(path: str) -> bool:
    """Whether a path is a URI and no path on this machine."""
    return "://" in path


def split_options(path: str) -> tuple[str, str]:
    """A URI without its options, and they with their question mark; a local path has none."""
    if not is_uri(path):
        return path, ""
    base, mark, options = path.partition("?")
    return base, mark + options


def connect(path: str) -> tuple[fs.FileSystem, str, str]:
    """The filesystem of a URI, its bucket's name there, and the path inside the bucket.

    Names are taken as they are: ``%20`` stays ``%20``.

    Raises:
        DataError: If the URI is of an unknown kind or has unknown options, the store does not
            answer, or there is no such bucket.
    """
    base, options = split_options(path)
    scheme, _, rest = base.partition("://")
    authority, _, inner = rest.partition("/")
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with told(path):
        filesystem, root = _connect(scheme, authority, options, settings)
    return filesystem, root, inner.strip("/")


@lru_cache(64)
def _connect(
    scheme: str, authority: str, options: str, settings: tuple[tuple[str, str], ...]
) -> tuple[fs.FileSystem, str]:
    """The filesystem of a bucket and its name; ``settings`` only tell environments apart."""
    if scheme == "s3" and "allow_delayed_open" not in options:
        options += ("&" if options else "?") + "allow_delayed_open=true"  # one PUT a small file
    filesystem, root = fs.FileSystem.from_uri(f"{scheme}://{authority}/{options}")
    try:
        is_there = filesystem.get_file_info(root).type != fs.FileType.NotFound
    except OSError as error:
        if not _has(error, _NO_RIGHTS):  # rights may be for the objects in a bucket alone
            raise
        is_there = True
    if not is_there:
        raise FileNotFoundError(f"Bucket {root!r} not found")
    return filesystem, str(root)


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Raise what an object store refuses as an error of one sentence.

    Errors of local files pass as they are.

    Raises:
        DataError: If the store at a URI refuses, does not answer, or lacks the bucket or file.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if not is_uri(path):
            raise
        raise DataError(f"{path}: {_explain(path, error)}") from error


def _explain(path: str, error: Exception) -> str:
    """What is wrong and what to do about it, from the words of Arrow's error."""
    bucket = split_options(path)[0].partition("://")[2].partition("/")[0].rpartition("@")[2]
    if _has(error, ("NO_SUCH_BUCKET", "Bucket '")):
        return f"there is no bucket {bucket!r}; create it, or name another"
    if isinstance(error, FileNotFoundError):
        return "no such file or folder; expected one there; see whether the path is right"
    if _has(error, _NO_ANSWER):
        return (
            "the object store does not answer; expected one at the address of the option "
            "endpoint_override or of AWS_ENDPOINT_URL, else its provider's; see whether it runs "
            "and can be reached from here"
        )
    if _has(error, _NO_RIGHTS):
        return (
            f"the object store refuses the credentials; expected such as may read and write in "
            f"bucket {bucket!r}, for S3 in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    said = hide_credentials(first_line(error))
    if isinstance(error, pa.ArrowInvalid) and _has(error, _BAD_URI):
        return (
            f"no such URI ({said}); expected s3://bucket/folder or gs://bucket/folder, with "
            "options that pyarrow knows"
        )
    return f"the object store refuses ({said}); see whether path, options and rights are right"


def _has(error: Exception, signs: tuple[str, ...]) -> bool:
    return any(sign in str(error) for sign in signs)
