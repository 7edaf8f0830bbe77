"""What a Ray that this project starts for the service needs in its environment."""

import os

_GUARD = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
_GRPC = "RAY_SERVE_USE_GRPC_BY_DEFAULT"
_TRACING = "RAY_SERVE_TRACING"
_CONTROL = "RAY_SERVE_CONTROL_LOOP_INTERVAL_S"


def prepare_serve() -> None:
    """Have a Ray that this process will start do what the service needs of Serve.

    It comes before the first import of ``ray.serve``, which reads the environment once: the handles
    that Fusion gets of its engines are made in this process, and keep how they call.

    Its proxies load ``serve.proxy.middlewares``, and proxies, Fusion and engines call each other
    over gRPC: with Ray's objects a process that has answered one on a node that fell silent works
    on nothing else until the head has given that node up. Serve's controller looks at its replicas
    twice a second in place of ten times, as each look costs about 2 ms of a core.
    """
    os.environ.setdefault(_GUARD, "serve.proxy:middlewares")
    os.environ.setdefault(_GRPC, "1")
    os.environ.setdefault(_CONTROL, "0.5")


def trace_requests(share: float) -> None:
    """Have a Ray that this process will start trace a share of the requests, 0 to 1.

    Serve's own argument for it reaches replicas, but no proxies.
    """
    if share > 0:
        os.environ.setdefault(f"{_TRACING}_EXPORTER_IMPORT_PATH", "serve.tracing:export_spans")
        os.environ.setdefault(f"{_TRACING}_SAMPLING_RATIO", str(share))
