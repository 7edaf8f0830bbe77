"""A real S3-compatible server on loopback, and buckets on it."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

_NUMBERS = count(1)


@dataclass(frozen=True)
class ObjectStore:
    """A running server; every bucket is new and empty."""

    host: str
    port: int

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables with which every program finds the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.host}:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self) -> str:
        """The name of a new bucket."""
        name = f"bucket-{next(_NUMBERS)}"
        self.client().create_bucket(Bucket=name)
        return name

    def uri(self, bucket: str, path: str = "") -> str:
        """A URI with credentials and address, which needs no variables."""
        options = f"endpoint_override={self.host}:{self.port}&scheme=http&region=us-east-1"
        return f"s3://key:secret@{bucket}/{path}?{options}"

    def client(self) -> Any:
        """Another program's client, to look at what is really there."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://{self.host}:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )

    def names(self, bucket: str) -> list[str]:
        """The names of all objects in a bucket, but for the empty ones that stand for folders."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return sorted(name for name in found if not name.endswith("/"))

    def read(self, bucket: str, name: str) -> bytes:
        """The bytes of an object."""
        return bytes(self.client().get_object(Bucket=bucket, Key=name)["Body"].read())


@contextmanager
def serve() -> Iterator[ObjectStore]:
    """Run a server; the test is skipped where moto is not installed."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    server.start()
    try:
        yield ObjectStore(*server.get_host_and_port())
    finally:
        server.stop()
