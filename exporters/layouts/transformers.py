"""Export a backbone as the folder that transformers.js, optimum and ONNX Runtime users look for.

    onnx/model.onnx            fp32: pixel_values [B,3,H,W] -> last_hidden_state [B,L,D], pooler_output [B,D]
    onnx/model_fp16.onnx       fp16 products, the residual stream in fp32
    onnx/model_quantized.onnx  int8 products (transformers.js: dtype "q8")
    onnx/*.onnx_data           the weights of each
    config.json                for transformers' AutoConfig, and what transformers.js needs to know
    preprocessor_config.json   the image processor
    README.md, LICENSE.txt     model card; licence of the weights

Each graph is that of a judged bundle, which is deleted, with other names and shapes; it is judged again in
this form. fp32 and fp16 graphs have operators of ai.onnx alone, which WebAssembly and WebGPU run. The int8
graph has MatMulIntegerToFloat of com.microsoft, which WebAssembly runs and WebGPU leaves to it.

Source: https://huggingface.co/docs/transformers.js/guides/dtypes (names by dtype) and
https://huggingface.co/docs/transformers.js/api/configs (`transformers.js_config`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from dinodeploy.backends import open_backend
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle
from dinodeploy.bundle.layout import JudgedGraph, TransformersFolder
from dinodeploy.bundle.manifest import CPU_FILE, METADATA_KEY, MODEL_FILE, write_licence
from dinodeploy.errors import JudgementError, MisuseError
from dinodeploy.files.atomic import atomic_directory
from dinodeploy.files.system_files import refuse_existing
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import load_golden
from dinodeploy.parity.judge import judge_golden
from dinov3_ref.checkpoints import Checkpoint, normalization
from dinov3_ref.checkpoints.sidecars import hf_config, obstacles
from exporters.bundle.export import OFFICIAL
from exporters.bundle.source import load_source
from exporters.graph.files import INLINE_BYTES, read_onnx
from exporters.layouts.card import model_card
from exporters.layouts.processor import image_processor
from exporters.layouts.tokens import Split, rename_outputs

CONFIG, PROCESSOR, CARD, GRAPHS = "config.json", "preprocessor_config.json", "README.md", "onnx"
# precision -> (name by transformers.js's dtype, the dtype, the bundle's graph)
NAMES: dict[str, tuple[str, str, str]] = {
    "fp32": ("model.onnx", "fp32", MODEL_FILE),
    "fp16": ("model_fp16.onnx", "fp16", MODEL_FILE),
    "int8": ("model_quantized.onnx", "q8", CPU_FILE),
}
OF_ENGINES = ("--device auto", "int8 on this CPU")  # notes on a bundle's engines on this machine

Export = Callable[[Path, str], Bundle]  # where to, precision -> a judged bundle


def export_folder(
    weights: str,
    out: Path | None,
    precisions: Sequence[str],
    options: Mapping[str, Any],
    export: Export,
    *,
    overwrite: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> TransformersFolder:
    """Export `weights` once per precision with `export` and write `out`; after a failure nothing is left.

    options: of `dinodeploy.export`, which `export` has too.
    Raises MisuseError for what transformers cannot express or browsers cannot run, OutputExistsError, and
    JudgementError; `export` may raise more.
    """
    _check_precisions(precisions)
    checkpoint = _load(weights, options)
    out = out or Path(f"{checkpoint.arch}-transformers")
    if reasons := list(obstacles(checkpoint, "hf")):
        raise MisuseError(f"--layout transformers cannot hold {checkpoint.source}: {'; '.join(reasons)}")
    _check_preprocessing(checkpoint, options)
    _refuse_existing(out, overwrite)
    graphs: list[JudgedGraph] = []
    notes: dict[str, None] = {}
    with atomic_directory(out) as staging:
        (staging / GRAPHS).mkdir()
        for precision in precisions:
            log(f"exporting {precision}")
            bundle = export(staging / "bundle", precision)
            notes |= dict.fromkeys(note for note in bundle.notes if not note.startswith(OF_ENGINES))
            log(f"judging {NAMES[precision][0]}")
            graphs.append(_write_graph(bundle, staging))
            shutil.rmtree(bundle.root)
        _write_json(staging / CONFIG, _config(checkpoint, bundle, graphs))
        _write_json(staging / PROCESSOR, image_processor(bundle.manifest.preprocess))
        write_licence(bundle.manifest, staging)
        (staging / CARD).write_text(
            model_card(out.name, bundle.manifest, graphs), encoding="utf-8", newline="\n"
        )
    return TransformersFolder(out, tuple(graphs), tuple(notes))


def _load(weights: str, options: Mapping[str, Any]) -> Checkpoint:
    hub = {"revision": options.get("revision"), "offline": options.get("offline") or None}
    how = {name: options.get(name) for name in ("weights_key", "adapter")}
    how["periods"] = options.get("rope_periods")
    arch, dataset, seed = (options.get(name) for name in ("arch", "dataset", "seed"))
    return load_source(weights, arch, dataset, seed or 0, hub, **how)[0]


def _check_preprocessing(checkpoint: Checkpoint, options: Mapping[str, Any]) -> None:
    """Raises MisuseError for what transformers cannot express, before a long export."""
    size = options.get("imgsz")
    size = (size, size) if isinstance(size, int) else size
    preset, stride = options.get("preprocess") or OFFICIAL, checkpoint.config.stride
    image_processor(Preprocess.from_preset(preset, size, *normalization(checkpoint), stride))


def _check_precisions(precisions: Sequence[str]) -> None:
    """Raises MisuseError unless they are different ones that have a name."""
    for precision in precisions:
        if precision not in NAMES:
            raise MisuseError(
                f"--layout transformers: no browser runs {precision!r}; wanted some of {', '.join(NAMES)}"
            )
    if not precisions or len(set(precisions)) < len(precisions):
        given = ", ".join(precisions)
        raise MisuseError(f"--precision {given}: wanted each of {', '.join(NAMES)} at most once")


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises OutputExistsError unless `out` is free, or such a folder that may be overwritten."""
    is_own = (out / CONFIG).is_file() and (out / GRAPHS).is_dir()
    refuse_existing(out, overwrite, is_own=is_own, wrong="no transformers folder", held="a model")


def _write_graph(bundle: Bundle, root: Path) -> JudgedGraph:
    """Write the graph of `bundle` into the folder `root` and judge it. Raises JudgementError."""
    manifest = bundle.manifest
    precision = manifest.graph.recipe
    name, _, source = NAMES[precision]
    if source not in manifest.engines:
        source = manifest.order[0]
    model = read_onnx(bundle.root / source)
    rename_outputs(model)
    model.metadata_props.pop(METADATA_KEY, None)  # it describes the bundle's outputs
    path, data = root / GRAPHS / name, f"{name}_data"
    ir.save(model, path, external_data=data, size_threshold_bytes=INLINE_BYTES)
    split = Split(manifest.model.storage_tokens, manifest.model.patch_size)
    backend = open_backend("onnxruntime", path)
    try:
        cases = load_golden(bundle.root / GOLDEN_FILE)
        verdict = judge_golden(cases, lambda pixels: split(backend.run(pixels), pixels), manifest)
    finally:
        backend.close()
    if not verdict.passed:
        first = verdict.failures[0]
        raise JudgementError(f"{name} is not the model: {first.output} of {first.case!r}: {first.sentence}")
    error, cosine = verdict.worst("relative_frobenius"), verdict.worst("cosine")
    assert error is not None
    assert cosine is not None
    size = path.stat().st_size + path.with_name(data).stat().st_size
    return JudgedGraph(f"{GRAPHS}/{name}", precision, size, error, cosine, backend.runtime)


def _config(checkpoint: Checkpoint, bundle: Bundle, graphs: Sequence[JudgedGraph]) -> dict[str, Any]:
    """config.json: transformers' fields, and which file transformers.js takes unless it is told."""
    dtypes = {graph.precision: NAMES[graph.precision][1] for graph in graphs}
    default = next(dtypes[precision] for precision in NAMES if precision in dtypes)
    script: dict[str, Any] = {"dtype": default, "use_external_data_format": True}
    if "int8" in dtypes:  # as transformers.js chooses by itself
        script["device_config"] = {"wasm": {"dtype": dtypes["int8"]}}
    size = bundle.manifest.preprocess
    side = size.height if size.height == size.width else [size.height, size.width]
    return {
        **hf_config(checkpoint),
        "dtype": "float32",
        "image_size": side,
        "transformers.js_config": script,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
