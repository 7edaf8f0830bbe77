"""What a Ray that this project starts for the service needs in its environment."""

import os
import secrets
import sys

_GUARD = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
_GRPC = "RAY_SERVE_USE_GRPC_BY_DEFAULT"
_TRACING = "RAY_SERVE_TRACING"


def prepare_serve() -> None:
    """Have a Ray that this process will start do what the service needs of Serve.

    Its proxies load ``serve.proxy.middlewares``, and proxies, Fusion and engines call each other
    over gRPC: with Ray's objects a process that has answered one on a node that fell silent works
    on nothing else until the head has given that node up.
    """
    os.environ.setdefault(_GUARD, "serve.proxy:middlewares")
    os.environ.setdefault(_GRPC, "1")


def trace_requests(share: float) -> None:
    """Have a Ray that this process will start trace a share of the requests, 0 to 1.

    Serve's own argument for it reaches replicas, but no proxies.
    """
    if share > 0:
        os.environ.setdefault(f"{_TRACING}_EXPORTER_IMPORT_PATH", "serve.tracing:export_spans")
        os.environ.setdefault(f"{_TRACING}_SAMPLING_RATIO", str(share))


def ask_for_token(address: str | None) -> None:
    """Have a Ray that this process will start refuse whoever lacks a token made for this run.

    Its ports listen on all addresses of the machine, and whoever reaches them could run code. Ray
    reads this when it is imported, so afterwards nothing is changed; neither is it where a cluster
    is used, or where the environment already says how Ray authenticates.

    Args:
        address: Of the cluster to use; None for a Ray of our own.
    """
    is_ours = address is None and "RAY_ADDRESS" not in os.environ
    if is_ours and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
