"""`dinodeploy triton`: write a Triton model repository from a bundle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import print_json, say
from dinodeploy.triton.repository import Options, write_repository

DEFAULTS = Options()


def triton(
    bundle: Annotated[Path, Argument(help="A bundle, an engine file inside one, or hf://ORG/NAME.")],
    repository: Annotated[Path, Argument(help="The model repository. Created if missing.")],
    device: Annotated[
        str, Option(help="cpu, cuda (model.onnx), tensorrt (a plan). auto: a plan if there is one.")
    ] = "auto",
    name: Annotated[str | None, Option(help="Name of the model. Default: dinov3_<arch>.")] = None,
    max_batch: Annotated[int, Option(help="Images per batch.")] = DEFAULTS.max_batch,
    max_wait_ms: Annotated[float, Option(help="Milliseconds a request waits for others.")] = 2.0,
    instances: Annotated[int, Option(help="Copies of the engine per device.")] = DEFAULTS.instances,
    preprocessors: Annotated[int, Option(help="Processes that decode images.")] = DEFAULTS.preprocessors,
    threads: Annotated[int, Option(help="Threads of a CPU engine. 0: ONNX Runtime's default.")] = 0,
    require_signature: RequireSignature = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace existing models.")] = False,
    as_json: Annotated[bool, Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Write a Triton model repository: the engine, its preprocessing, and the ensemble of both."""
    delay_us = round(max_wait_ms * 1000)
    options = Options(device, name, max_batch, delay_us, instances, preprocessors, threads)
    written = write_repository(
        bundle, repository, options, overwrite=overwrite, require_signature=require_signature
    )
    if as_json:
        print_json(asdict(written) | {"models": [str(model) for model in written.models]})
        return
    for model in written.models:
        say(model)
    say(f"{written.name}: {written.engine}, {written.platform}; the server needs numpy and pillow")
    say(written.judged)
    say(f"next: tritonserver --model-repository {repository.resolve()}")
