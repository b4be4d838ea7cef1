"""Write a Triton model repository from a bundle: three models; clients call the ensemble.

    REPO/NAME_engine/config.pbtxt        the engine: onnxruntime_onnx, or tensorrt_plan
    REPO/NAME_engine/1/                  the engine and its weights, under the names they have in the bundle
    REPO/NAME_preprocess/config.pbtxt    Python backend: an image file -> pixels
    REPO/NAME_preprocess/1/              model.py, preprocess.json, and the dinodeploy modules that it imports
    REPO/NAME/config.pbtxt               the ensemble of both: bytes in, embeddings out
    REPO/NAME/1/                         empty, as Triton requires

Other models in REPO are left alone. Source: Triton's model_config.proto and its model-repository guide.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dinodeploy
from dinodeploy.backends.select import candidates
from dinodeploy.bundle.bundle import Bundle, EngineChoice, locate, verify_file
from dinodeploy.bundle.manifest import PLAIN_NAME, BuildFacts
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError, OutputExistsError, UnavailableError
from dinodeploy.files import schema
from dinodeploy.files.atomic import atomic_directory
from dinodeploy.images.limits import MAX_PIXELS
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.triton import preprocess_model

Config = dict[str, Any]


class Word(str):
    """An enumeration constant of protobuf: a name without quotes."""

    __slots__ = ()


VERSION = "1"
INPUT, IMAGE = "pixels", "image"  # the graph's input, and a client's
FP32 = Word("TYPE_FP32")


@dataclass(frozen=True)
class Kind:
    """How Triton runs what one of our backends runs."""

    platform: str
    on_gpu: bool
    device: str  # our `--device` for it


# dinodeploy backend -> Triton platform
KINDS: dict[str, Kind] = {
    "onnxruntime": Kind("onnxruntime_onnx", False, "onnxruntime"),
    "onnxruntime_cuda": Kind("onnxruntime_onnx", True, "cuda"),
    "tensorrt": Kind("tensorrt_plan", True, "tensorrt"),
}
# --device -> backends, best first; the server's machine decides what can run, not this one
DEVICES: dict[str, tuple[str, ...]] = {
    "auto": ("tensorrt", "onnxruntime"),
    "cpu": ("onnxruntime",),
    "cuda": ("onnxruntime_cuda",),
    "tensorrt": ("tensorrt",),
}


@dataclass(frozen=True)
class Options:
    """How the server runs the models. Raises MisuseError when created with a wrong value.

    max_batch: images per batch. delay_us: microseconds that a request waits for others. instances: copies of
    the engine on each device. preprocessors: decoding processes. threads: of a CPU engine, 0 for ONNX
    Runtime's default.
    """

    device: str = "auto"
    name: str | None = None
    max_batch: int = 8
    delay_us: int = 2000
    instances: int = 1
    preprocessors: int = 2
    threads: int = 0

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise MisuseError(f"--device {self.device!r} is unknown; wanted one of {', '.join(DEVICES)}")
        if self.name is not None and not PLAIN_NAME.fullmatch(self.name):
            raise MisuseError(f"--name {self.name!r}; wanted letters, digits, dots, dashes and underscores")
        for option, least in (("max_batch", 1), ("instances", 1), ("preprocessors", 1), ("threads", 0)):
            if (given := getattr(self, option)) < least:
                raise MisuseError(f"--{option.replace('_', '-')} is {given}; wanted at least {least}")
        if self.delay_us < 0:
            raise MisuseError(f"--max-wait-ms is {self.delay_us / 1000:g}; wanted at least 0")


@dataclass(frozen=True)
class Written:
    """The models that were written, and the engine that they run."""

    name: str
    engine: str
    platform: str
    models: tuple[Path, ...]
    judged: str  # the runtime and device that the shipped engine was judged on, or why it was not


def write_repository(
    path: Path,
    repository: Path,
    options: Options,
    *,
    overwrite: bool = False,
    require_signature: Path | None = None,
) -> Written:
    """Write the three models of the bundle at `path` into `repository`, once the engine is judged.

    An engine that this machine cannot run is shipped unjudged, and `judged` says so. Raises as `open_bundle`,
    JudgementError for an engine that is not the model, TamperedError for a file that is not the exported
    one, UnavailableError for an engine that Triton cannot run, OutputExistsError for models that are there.
    """
    engine = _choose(*locate(path, require_signature=require_signature), options.device)
    kind = KINDS[engine.backend]
    name = options.name or f"dinov3_{engine.manifest.model.arch}"
    parts: dict[str, Callable[[Path], Config]] = {
        f"{name}_engine": lambda folder: _engine(engine, kind, options, folder),
        f"{name}_preprocess": lambda folder: _preprocess(engine, options, folder),
        name: lambda _: _ensemble(engine, name, options),
    }
    targets = {model: repository / model for model in parts}
    for target in targets.values():
        if target.exists() and not (overwrite and (target / "config.pbtxt").is_file()):
            raise OutputExistsError(f"{target} exists; --overwrite replaces it, --name gives another name")
    judged = _judge(engine, kind)
    for model, fill in parts.items():
        with atomic_directory(targets[model]) as partial:
            (partial / VERSION).mkdir()
            config = {"name": model, **fill(partial / VERSION)}
            (partial / "config.pbtxt").write_text(pbtxt(config), encoding="utf-8", newline="\n")
    return Written(name, engine.file, kind.platform, tuple(targets.values()), judged)


def _judge(engine: EngineChoice, kind: Kind) -> str:
    """Verify, open and judge the engine as `embed` does; returns where, or why it does not run here."""
    engine.bundle.verify(engine.needed_files)
    engine.check_external_data()
    try:
        with Embedder.open_located(engine.bundle, engine.file, device=kind.device) as embedder:
            return f"judged on {embedder.backend.device}, {embedder.backend.runtime}"
    except UnavailableError as error:
        return f"not judged: it does not run here ({error}); judge it where it runs: dinodeploy check"


def _choose(bundle: Bundle, file: str | None, device: str) -> EngineChoice:
    """The engine that Triton is to run. Raises UnavailableError."""
    asked = "auto" if file is not None or device == "auto" else device
    found = {one.backend: one for one in reversed(candidates(bundle, asked, file=file))}
    chosen = next((found[backend] for backend in DEVICES[device] if backend in found), None)
    if chosen is None:
        there = ", ".join(dict.fromkeys(found)) or "none"
        raise UnavailableError(
            f"{bundle.named} has no engine that Triton runs for --device {device} (engines: {there}); "
            f"build a plan, dinodeploy build {bundle.named}, or use --device cpu"
        )
    build = chosen.facts.build
    if build is not None and (build.stripped or build.weight_streaming):
        what = "has no weights of its own" if build.stripped else "streams its weights"
        raise UnavailableError(f"{chosen.file} {what}, which Triton does not load; build it without that")
    return chosen


def _engine(engine: EngineChoice, kind: Kind, options: Options, folder: Path) -> Config:
    """Copy the engine and the files it reads, and verify the copies; return its configuration."""
    facts = engine.facts
    for name in engine.manifest.files_of(engine.file):
        shutil.copyfile(engine.root / name, folder / name)
        verify_file(folder / name, engine.manifest.files[name])
    group: Config = {"count": options.instances, "kind": Word("KIND_GPU" if kind.on_gpu else "KIND_CPU")}
    if facts.build is not None:
        _check_batch(engine, facts.build, options.max_batch)
        group["profile"] = [str(number) for number in range(len(facts.build.profiles))]
    config: Config = {
        "platform": kind.platform,
        "default_model_filename": engine.file,
        "max_batch_size": options.max_batch,
        "input": [_pixels(engine.manifest.preprocess, -1, -1)],
        "output": _outputs(engine),
        "instance_group": [group],
        "dynamic_batching": {"max_queue_delay_microseconds": options.delay_us},
        "model_warmup": [_warmup(engine)],
    }
    if kind.on_gpu:
        pinned = {"enable": True}
        config["optimization"] = {"input_pinned_memory": pinned, "output_pinned_memory": pinned}
    if kind.platform == "onnxruntime_onnx":  # as dinodeploy opens it: no accelerator that changes its numbers
        heuristic = {"cudnn_conv_algo_search": {"string_value": "1"}}
        threads = {"intra_op_thread_count": {"string_value": str(options.threads)}}
        config["parameters"] = entries(heuristic if kind.on_gpu else threads)
    return config


def _check_batch(engine: EngineChoice, build: BuildFacts, max_batch: int) -> None:
    largest = min(profile.max[0] for profile in build.profiles)
    if max_batch > largest:
        raise MisuseError(
            f"--max-batch is {max_batch}, {engine.file} was built for at most {largest}; use that, or "
            f"build it again: dinodeploy build {engine.bundle.named} --batch 1:{max_batch}:{max_batch} "
            "--overwrite"
        )
    if any(profile.min[0] > 1 for profile in build.profiles):
        raise MisuseError(f"{engine.file} takes no single image; build it with --batch 1:…")


def _warmup(engine: EngineChoice) -> Config:
    steps, build = engine.manifest.preprocess, engine.facts.build
    # of a plan, a size that it was built for
    height, width = build.profiles[0].opt[1:] if build else (steps.height, steps.width)
    shape = {**_pixels(steps, height, width), "zero_data": True}
    del shape["name"]
    return {"name": "one image", "batch_size": 1, "inputs": entries({INPUT: shape})}


def _pixels(steps: Preprocess, height: int, width: int) -> Config:
    """The engine's input without its batch; -1 for a free side."""
    if steps.dtype == "uint8":
        return {"name": INPUT, "data_type": Word("TYPE_UINT8"), "dims": [height, width, 3]}
    return {"name": INPUT, "data_type": FP32, "dims": [3, height, width]}


def _preprocess(engine: EngineChoice, options: Options, folder: Path) -> Config:
    source = Path(dinodeploy.__file__).parent
    shutil.copyfile(preprocess_model.__file__, folder / "model.py")
    for name in preprocess_modules():
        module = folder / "dinodeploy" / name
        module.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, module)
    facts = schema.dump(engine.manifest.preprocess) | {preprocess_model.MAX_PIXELS: MAX_PIXELS}
    text = json.dumps(facts, indent=2) + "\n"
    (folder / preprocess_model.FACTS).write_text(text, encoding="utf-8", newline="\n")
    return {
        "backend": "python",
        "max_batch_size": options.max_batch,
        "input": [{"name": IMAGE, "data_type": Word("TYPE_STRING"), "dims": [1]}],
        "output": [_pixels(engine.manifest.preprocess, -1, -1)],
        "instance_group": [{"count": options.preprocessors, "kind": Word("KIND_CPU")}],
    }


def preprocess_modules() -> list[str]:
    """Files of this package that model.py imports, directly or not; imports inside functions do not count."""
    root = Path(dinodeploy.__file__).parent
    found: set[str] = set()
    imported = ("errors", "files.json_file", "images.open", "images.preprocess")
    ahead = [f"dinodeploy.{name}" for name in imported]
    while ahead:
        parts = ahead.pop().split(".")[1:]
        packages = ["/".join((*parts[:depth], "__init__.py")) for depth in range(len(parts))]
        own = "/".join(parts)
        for name in (*packages, f"{own}.py" if (root / f"{own}.py").is_file() else f"{own}/__init__.py"):
            if name not in found:
                found.add(name)
                ahead += [
                    str(node.module)
                    for node in ast.parse((root / name).read_text("utf-8")).body
                    if isinstance(node, ast.ImportFrom) and str(node.module).startswith("dinodeploy.")
                ]
    return sorted(found)


def _ensemble(engine: EngineChoice, name: str, options: Options) -> Config:
    outputs = _outputs(engine)
    first = _step(f"{name}_preprocess", IMAGE, [INPUT])
    second = _step(f"{name}_engine", INPUT, [output["name"] for output in outputs])
    return {
        "platform": "ensemble",
        "max_batch_size": options.max_batch,
        "input": [{"name": IMAGE, "data_type": Word("TYPE_STRING"), "dims": [1]}],
        "output": outputs,
        "ensemble_scheduling": {"step": [first, second]},
    }


def _step(model: str, given: str, made: list[str]) -> Config:
    """A step of the ensemble; tensors keep their names."""
    maps = {"input_map": entries({given: given}), "output_map": entries({name: name for name in made})}
    return {"model_name": model, "model_version": -1, **maps}


def _outputs(engine: EngineChoice) -> list[Config]:
    """The engine's outputs without their batch; free sides are -1."""
    outputs = []
    for output in (one for one in engine.manifest.outputs if one.name in engine.outputs):
        sides = [side if isinstance(side, int) else -1 for side in output.shape[1:]]
        outputs.append({"name": output.name, "data_type": FP32, "dims": sides})
    return outputs


def pbtxt(message: Mapping[str, Any]) -> str:
    """A message in protobuf's text format. Lists are repeated fields; `entries` makes a map.

    Source: https://protobuf.dev/reference/protobuf/textformat-spec.
    """
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, list) and value and not isinstance(value[0], Mapping):
            yield f"{name}: [ {', '.join(map(_scalar, value))} ]"
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(one))
                yield "}"
            else:
                yield f"{name}: {_scalar(one)}"


def entries(mapping: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A protobuf map: one {key, value} per entry."""
    return [{"key": key, "value": value} for key, value in mapping.items()]


def _scalar(value: Any) -> str:
    # the text format knows true, false, and all escapes of JSON
    return str(value) if isinstance(value, Word) else json.dumps(value)
