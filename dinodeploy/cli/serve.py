"""`dinodeploy serve`: a bundle as an HTTP service."""

from __future__ import annotations

import importlib
import socket
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from dinodeploy.bundle.bundle import pinned
from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import DEVICE_HELP, WEIGHT_BUDGET_HELP, note, parse_gib, say
from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.serve.access import read_keys
from dinodeploy.serve.limits.hosts import hosts_for
from dinodeploy.serve.settings import Settings

DEFAULTS = Settings(Path())
KEY_FILE_HELP = "File of API keys, one per line: [NAME] KEY. Default: no key needed."
BACKLOG = 2048  # connections that the system queues until they are accepted
LOCAL = ("127.0.0.1", "::1", "localhost")


def serve(
    bundle: Annotated[Path, Argument(help="A bundle, an engine file inside one, or hf://ORG/NAME.")],
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Port to listen on; 0 for any free port.")] = 8000,
    index: Annotated[
        Path | None, Option(help="Indexed embeddings for /search (from `dinodeploy index`).")
    ] = None,
    labels: Annotated[
        Path | None, Option(help="File of labels for /classify, one per line; needs a dino.txt bundle.")
    ] = None,
    templates: Annotated[
        str, Option(help="Templates of --labels: imagenet (80), none, or a file. Default: imagenet.")
    ] = DEFAULTS.templates,
    api_key_file: Annotated[Path | None, Option(help=KEY_FILE_HELP)] = None,
    served_model_name: Annotated[
        str | None,
        Option(help="Model id of /v1/embeddings. Default: hub id of the weights, or architecture."),
    ] = None,
    device: Annotated[str, Option(help=DEVICE_HELP)] = "auto",
    threads: Annotated[int | None, Option(help="Engine threads.")] = None,
    weight_budget: Annotated[float | None, Option(help=WEIGHT_BUDGET_HELP)] = None,
    workers: Annotated[int, Option(help="Number of processes, each with its own engine.")] = 1,
    max_batch: Annotated[int, Option(help="Maximum batch size.")] = DEFAULTS.max_batch,
    max_wait_ms: Annotated[float, Option(help="Milliseconds that an image waits for a batch to fill.")] = 5.0,
    queue: Annotated[int, Option(help="Maximum number of waiting images; beyond it 503.")] = DEFAULTS.queue,
    max_bytes: Annotated[int, Option(help="Maximum bytes per request; beyond it 413.")] = DEFAULTS.max_bytes,
    max_pixels: Annotated[int, Option(help="Maximum pixels per image; beyond it 413.")] = DEFAULTS.max_pixels,
    max_images: Annotated[
        int, Option(help="Maximum images per request; beyond it 413.")
    ] = DEFAULTS.max_images,
    rate: Annotated[float | None, Option(help="Requests per second from one client; beyond it 429.")] = None,
    time_limit: Annotated[
        float, Option(help="Maximum seconds per request; beyond it 503.")
    ] = DEFAULTS.time_limit,
    max_answer: Annotated[
        int, Option(help="Maximum bytes of an answer; beyond it 413.")
    ] = DEFAULTS.max_answer,
    max_inflight: Annotated[
        int | None, Option(help="Maximum bytes of request bodies in memory. Default: twice --max-bytes.")
    ] = None,
    max_connections: Annotated[
        int, Option(help="Maximum connections; beyond it idle ones are closed.")
    ] = DEFAULTS.max_connections,
    decode_seconds: Annotated[
        int, Option(help="Maximum CPU seconds to decode an image; beyond it 422.")
    ] = DEFAULTS.decode_seconds,
    decode_memory: Annotated[
        int | None, Option(help="Maximum MiB to decode an image; beyond it 413. Default: by --max-pixels.")
    ] = None,
    formats: Annotated[str, Option(help="Comma-separated image formats that are accepted.")] = ",".join(
        DEFAULTS.formats
    ),
    allowed_host: Annotated[
        list[str] | None,
        Option(help="Another host name of this service, or * for any. Default: loopback and --host."),
    ] = None,
    allow_urls: Annotated[
        bool, Option("--allow-urls", help="Accept images by https URL from public addresses.")
    ] = False,
    ray: Annotated[
        bool, Option("--ray", help="Run on Ray Serve; --workers is the number of replicas.")
    ] = False,
    require_signature: RequireSignature = None,
    allow_unverified: Annotated[
        bool, Option("--allow-unverified", help="Use an engine without a parity receipt.")
    ] = False,
) -> None:
    """Serve embeddings over HTTP: /embed, OpenAI's /v1/embeddings, /search and a web page."""
    if workers < 1:
        raise MisuseError(f"--workers is {workers}; wanted at least 1")
    settings = Settings(
        bundle=pinned(bundle),
        device=device,
        threads=threads,
        weight_budget=parse_gib(weight_budget),
        require_signature=require_signature,
        allow_unverified=allow_unverified,
        index=index,
        labels=labels,
        templates=templates,
        keys=read_keys(api_key_file) if api_key_file else (),
        served_model_name=served_model_name,
        max_batch=max_batch,
        max_wait=max_wait_ms / 1000,
        queue=queue,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_images=max_images,
        rate=rate,
        allow_urls=allow_urls,
        time_limit=time_limit,
        max_answer=max_answer,
        max_inflight=max_inflight,
        max_connections=max_connections,
        decode_seconds=decode_seconds,
        decode_memory=decode_memory,
        formats=tuple(name.strip().upper() for name in formats.split(",") if name.strip()),
        allowed_hosts=hosts_for(host, allowed_host or ()),
    )
    if host not in LOCAL and not settings.keys:
        note("keys", f"everybody who can reach {host} can use the service; --api-key-file restricts access")
    if ray:
        _import("ray_app").serve_with_ray(settings, host, port, workers)
    else:
        _serve(settings, host, port, workers)


def _serve(settings: Settings, host: str, port: int, workers: int) -> None:
    server = _import("server")
    with server.bind(host, port) as listener:
        with _import("service").Service.open(settings) as service:
            note(settings.device, service.embedder.choice)
            if workers == 1:
                _announce(listener, settings)
                server.serve_on(listener, service, ends_process=True)
                return
        _announce(listener, settings)
        _import("workers").serve_with_workers(listener, settings, workers, partial(note, "workers"))


def _announce(listener: socket.socket, settings: Settings) -> None:
    """Start to accept connections and print the URL, as reachable from this machine."""
    listener.listen(BACKLOG)
    address, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
    key = " -H 'Authorization: Bearer KEY'" if settings.keys else ""
    say(f"{settings.bundle} on http://{host}:{port}")
    say(f"routes: http://{host}:{port}/docs; OpenAI clients: base_url=http://{host}:{port}/v1")
    say(f"next: curl{key} -F files=@cat.jpg http://{host}:{port}/embed", flush=True)


def _import(module: str) -> Any:
    """Import a module of the service. Raises UnavailableError without the extra."""
    try:
        return importlib.import_module(f"dinodeploy.serve.{module}")
    except ImportError as error:
        raise UnavailableError(
            f"serve needs {error.name}; install it: pip install 'dinodeploy[serve]'"
        ) from error
