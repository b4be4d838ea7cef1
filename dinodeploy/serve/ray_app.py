"""The same routes under Ray Serve: replicas, autoscaling and routing are Ray's.

dinodeploy serve bundle --ray                       runs it in a Ray of this machine
serve.run(deployment(Settings(bundle=…)))           in a program of your own, on your cluster
"""

from __future__ import annotations

import importlib
import signal
import threading
from typing import Any

from dinodeploy.errors import UnavailableError
from dinodeploy.serve.settings import Settings


def deployment(settings: Settings, *, replicas: int = 1) -> Any:
    """A Ray Serve application; each replica opens an engine of its own and batches what reaches it.

    Raises UnavailableError without Ray Serve.
    """
    serve = _ray_serve()

    def build() -> Any:
        from dinodeploy.serve.app import create_app
        from dinodeploy.serve.service import Service

        return create_app(Service.open(settings))

    class Dinodeploy:
        """What Ray makes replicas of."""

    with_routes = serve.ingress(build)(Dinodeploy)
    deployed = serve.deployment(num_replicas=replicas, max_ongoing_requests=settings.queue)(with_routes)
    return deployed.bind()


def serve_with_ray(settings: Settings, host: str, port: int, replicas: int) -> None:
    """Run under Ray Serve until SIGTERM or Ctrl-C; replicas finish what they are answering."""
    serve = _ray_serve()
    stop = threading.Event()
    serve.start(http_options={"host": host, "port": port})
    for number in (signal.SIGTERM, signal.SIGINT):  # now: Ray's start puts its own in their place
        signal.signal(number, lambda *_: stop.set())
    serve.run(deployment(settings, replicas=replicas), name="dinodeploy")
    stop.wait()
    serve.shutdown()


def _ray_serve() -> Any:
    try:
        return importlib.import_module("ray.serve")
    except ImportError as error:
        raise UnavailableError(
            f"Ray Serve cannot be imported ({error}); install it: pip install 'ray[serve]', "
            "or leave --ray out"
        ) from error
