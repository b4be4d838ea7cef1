"""The same routes on Ray Serve, which provides replicas, autoscaling and routing.

dinodeploy serve bundle --ray                       starts Ray on this machine
serve.run(deployment(Settings(bundle=…)))           in your own program, on your cluster
"""

from __future__ import annotations

import importlib
import signal
import threading
from typing import Any

from dinodeploy.errors import UnavailableError
from dinodeploy.hardware.telemetry import silence_ray
from dinodeploy.serve.settings import Settings


def deployment(settings: Settings, *, replicas: int = 1) -> Any:
    """A Ray Serve application; each replica opens its own engine. Raises UnavailableError without Ray."""
    serve = _ray_serve()

    def build() -> Any:
        from dinodeploy.serve.app import create_app
        from dinodeploy.serve.service import Service

        return create_app(Service.open(settings))

    class Dinodeploy:
        """The class that Ray creates replicas of."""

    with_routes = serve.ingress(build)(Dinodeploy)
    deployed = serve.deployment(num_replicas=replicas, max_ongoing_requests=settings.queue)(with_routes)
    return deployed.bind()


def serve_with_ray(settings: Settings, host: str, port: int, replicas: int) -> None:
    """Serve with Ray until SIGTERM or Ctrl-C; replicas finish their open requests."""
    serve = _ray_serve()
    stop = threading.Event()
    serve.start(http_options={"host": host, "port": port})
    for number in (signal.SIGTERM, signal.SIGINT):  # after serve.start, which installs its own handlers
        signal.signal(number, lambda *_: stop.set())
    serve.run(deployment(settings, replicas=replicas), name="dinodeploy")
    stop.wait()
    serve.shutdown()


def _ray_serve() -> Any:
    silence_ray()
    try:
        return importlib.import_module("ray.serve")
    except ImportError as error:
        raise UnavailableError(
            f"Ray Serve cannot be imported ({error}); install it: pip install 'ray[serve]', "
            "or run without --ray"
        ) from error
