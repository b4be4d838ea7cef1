"""`dinodeploy serve`: a bundle as an HTTP service."""

from __future__ import annotations

import importlib
import socket
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dinodeploy.cli.output import DEVICE_HELP, WEIGHT_BUDGET_HELP, note, parse_gib
from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.serve.keys import read_keys
from dinodeploy.serve.settings import Settings

DEFAULTS = Settings(Path())
KEY_FILE_HELP = "A file of API keys, one a line: [NAME] KEY. Without: anybody may ask."
BACKLOG = 2048  # connections that the system keeps until they are taken
LOCAL = ("127.0.0.1", "::1", "localhost")


def serve(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or an engine file inside one.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any free one.")] = 8000,
    index: Annotated[Path | None, typer.Option(help="What `index` indexed, for /search.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help=KEY_FILE_HELP)] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
    weight_budget: Annotated[float | None, typer.Option(help=WEIGHT_BUDGET_HELP)] = None,
    workers: Annotated[int, typer.Option(help="Processes, each with an engine; dead ones are replaced.")] = 1,
    max_batch: Annotated[int, typer.Option(help="Pictures a run of the engine.")] = DEFAULTS.max_batch,
    max_wait_ms: Annotated[float, typer.Option(help="How long a picture waits for others.")] = 5.0,
    queue: Annotated[int, typer.Option(help="Pictures that may wait; then 503.")] = DEFAULTS.queue,
    max_bytes: Annotated[int, typer.Option(help="Of a request; then 413.")] = DEFAULTS.max_bytes,
    max_pixels: Annotated[int, typer.Option(help="Of a picture; then 413.")] = DEFAULTS.max_pixels,
    max_images: Annotated[int, typer.Option(help="Of a request; then 413.")] = DEFAULTS.max_images,
    rate: Annotated[float | None, typer.Option(help="Requests a second from one client; then 429.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds of a request; then 503.")] = DEFAULTS.time_limit,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch pictures by https URL, from public addresses.")
    ] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Under Ray Serve; --workers are its replicas.")] = False,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Use an engine that no receipt vouches for.")
    ] = False,
) -> None:
    """Serve embeddings over HTTP: /embed, /search, /metrics, and a page to try it on. Stops on SIGTERM."""
    if workers < 1:
        raise MisuseError(f"--workers is {workers}; wanted at least 1")
    settings = Settings(
        bundle=bundle,
        device=device,
        threads=threads,
        weight_budget=parse_gib(weight_budget),
        allow_unverified=allow_unverified,
        index=index,
        keys=read_keys(api_key_file) if api_key_file else (),
        max_batch=max_batch,
        max_wait=max_wait_ms / 1000,
        queue=queue,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_images=max_images,
        rate=rate,
        allow_urls=allow_urls,
        time_limit=time_limit,
    )
    if host not in LOCAL and not settings.keys:
        note("keys", f"anybody who reaches {host} may ask; --api-key-file keeps others out")
    if ray:
        _reach("ray_app").serve_with_ray(settings, host, port, workers)
    else:
        _serve(settings, host, port, workers)


def _serve(settings: Settings, host: str, port: int, workers: int) -> None:
    server = _reach("server")
    with server.bind(host, port) as listener:
        with _reach("service").Service.open(settings) as service:
            note(settings.device, service.embedder.choice)
            if workers == 1:
                _announce(listener, settings)
                server.serve_on(listener, service)
                return
        _announce(listener, settings)
        _reach("workers").serve_with_workers(listener, settings, workers, partial(note, "workers"))


def _announce(listener: socket.socket, settings: Settings) -> None:
    """Where it is, once connections are taken; of a service for others, as this machine reaches it."""
    listener.listen(BACKLOG)
    address, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
    key = " -H 'Authorization: Bearer KEY'" if settings.keys else ""
    print(f"{settings.bundle} on http://{host}:{port}")
    print(f"next: curl{key} -F files=@cat.jpg http://{host}:{port}/embed", flush=True)


def _reach(module: str) -> Any:
    """A module of the service. Raises UnavailableError without the extra."""
    try:
        return importlib.import_module(f"dinodeploy.serve.{module}")
    except ImportError as error:
        raise UnavailableError(
            f"serve needs {error.name}; install it: pip install 'dinodeploy[serve]'"
        ) from error
