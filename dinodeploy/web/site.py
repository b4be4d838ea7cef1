"""Write the folder of a static page that embeds images in the browser: `dinodeploy web`.

    index.html              the page; style and script inside
    fp32/, fp16/, int8/     a graph and its weights, one folder per bundle
    golden.safetensors      photographs and the reference's outputs, which the page compares itself with
    runtime/                onnxruntime-web
    LICENSE.txt             of the weights

Which graph the page loads, unless its user chooses: with WebGPU fp16 where the device computes in fp16, else
fp32; with WebAssembly the smallest. With one bundle there is one graph. bf16 and fp8 run in no browser.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, open_bundle
from dinodeploy.bundle.manifest import CPU_FILE, LICENCE_FILE, MODEL_FILE, write_licence
from dinodeploy.errors import MisuseError
from dinodeploy.files.atomic import atomic_directory
from dinodeploy.files.system_files import refuse_existing
from dinodeploy.pages import check_pages, render_page
from dinodeploy.parity.thresholds import PIXEL_THRESHOLDS, THRESHOLDS, Threshold
from dinodeploy.visualize.heat import SCALE
from dinodeploy.web.packages import copy_runtime

PAGE, RUNTIME_FOLDER = "index.html", "runtime"
# recipe -> the graph that browsers run: of ai.onnx operators where the recipe has such a graph
GRAPHS = {"fp32": MODEL_FILE, "fp16": MODEL_FILE, "int8": CPU_FILE}
OUTPUTS = ("cls", "storage", "patch")
LARGEST = 2_000_000_000  # bytes that a browser can hold in one buffer


@dataclass(frozen=True)
class Site:
    """A written page."""

    root: Path
    graphs: tuple[dict[str, Any], ...]  # precision, file and bytes of each
    runtime: str


def write_site(
    bundles: Sequence[Path],
    out: Path,
    *,
    runtime: Path | None = None,
    require_signature: Path | None = None,
    overwrite: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> Site:
    """Write the page for one bundle, or several precisions of one model, into the folder `out`.

    runtime: a folder with onnxruntime-web; by default it is downloaded from npm's registry. Raises
    MisuseError for bundles that no browser runs or that differ, OutputExistsError, and as `open_bundle` and
    `copy_runtime`; nothing is left then.
    """
    check_pages()
    opened = [open_bundle(path, require_signature=require_signature) for path in bundles]
    for bundle in opened:
        _check(bundle, opened[0])
    _refuse_existing(out, overwrite)
    with atomic_directory(out) as staging:
        version = copy_runtime(staging / RUNTIME_FOLDER, runtime, log)
        graphs = tuple(_copy_graph(bundle, staging, log) for bundle in opened)
        first = opened[0]
        shutil.copyfile(first.root / GOLDEN_FILE, staging / GOLDEN_FILE)
        write_licence(first.manifest, staging)
        page = render_page("web", data=_data(first, graphs, version), licence=first.manifest.licence)
        (staging / PAGE).write_text(page, encoding="utf-8", newline="\n")
    return Site(out, graphs, version)


def _check(bundle: Bundle, first: Bundle) -> None:
    """Raises MisuseError for a bundle that the page cannot run, or of another model than the first."""
    manifest, recipe = bundle.manifest, bundle.manifest.graph.recipe
    if recipe not in GRAPHS:
        raise MisuseError(f"{bundle.named} is {recipe}, which no browser runs; wanted {', '.join(GRAPHS)}")
    if manifest.preprocess.dtype != "float32":
        raise MisuseError(f"{bundle.named} takes uint8, the page makes float32; export without --input uint8")
    names = {output.name for output in manifest.outputs}
    if manifest.head is not None or not {"cls", "patch"} <= names:
        raise MisuseError(f"{bundle.named} is no backbone alone; wanted one with cls and patch: --head none")
    same = (manifest.model.sha256, manifest.preprocess) == (
        first.manifest.model.sha256,
        first.manifest.preprocess,
    )
    if not same:
        raise MisuseError(
            f"{bundle.named} is another model than {first.named}, or prepares images differently"
        )
    if bundle is not first and recipe == first.manifest.graph.recipe:
        raise MisuseError(f"{bundle.named} is {recipe} like {first.named}; wanted each precision once")


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises OutputExistsError unless `out` is free, or such a page that may be overwritten."""
    is_own = (out / PAGE).is_file() and (out / RUNTIME_FOLDER).is_dir()
    words = {"wrong": "no page of `dinodeploy web`", "held": "a page", "other": "another folder"}
    refuse_existing(out, overwrite, is_own=is_own, **words)


def _copy_graph(bundle: Bundle, root: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Copy the verified graph that a browser runs; what the page knows of it."""
    manifest = bundle.manifest
    recipe = manifest.graph.recipe
    name = GRAPHS[recipe] if GRAPHS[recipe] in manifest.engines else manifest.order[0]
    files = manifest.engines[name].files
    size = sum(manifest.files[file].bytes for file in files)
    if max(manifest.files[file].bytes for file in files) > LARGEST:
        raise MisuseError(
            f"{bundle.named} has {size / 1e9:.1f} GB of weights; wanted at most 2 GB: --precision int8"
        )
    log(f"copying {recipe}")
    bundle.verify((*files, GOLDEN_FILE))
    bundle.choose(name).check_external_data()
    (root / recipe).mkdir()
    for file in files:
        shutil.copyfile(bundle.root / file, root / recipe / file)
    return {"precision": recipe, "file": f"{recipe}/{name}", "data": list(files[1:]), "bytes": size}


def _data(bundle: Bundle, graphs: Sequence[dict[str, Any]], runtime: str) -> dict[str, Any]:
    """What the script knows: model, preprocessing, graphs, and the judge's limits."""
    model, preprocess = bundle.manifest.model, bundle.manifest.preprocess
    steps = preprocess.steps
    return {
        "model": {
            "arch": model.arch,
            "weights": model.weights,
            "dim": model.embed_dim,
            "patch": model.patch_size,
            "source": model.source,
        },
        "preprocess": {
            "preset": preprocess.preset,
            "fit": steps.fit,
            "interpolation": steps.interpolation,
            "dtype": steps.dtype,
            "ratio": [steps.resize_ratio.numerator, steps.resize_ratio.denominator],
            "height": preprocess.height,
            "width": preprocess.width,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "patch": preprocess.patch_size,
            "most": preprocess.max_patches,
        },
        "graphs": list(graphs),
        "golden": GOLDEN_FILE,
        "runtime": {"name": runtime, "folder": RUNTIME_FOLDER},
        "outputs": [output.name for output in bundle.manifest.outputs if output.name in OUTPUTS],
        "pixel_limits": _limits(PIXEL_THRESHOLDS),
        "limits": {graph["precision"]: _limits(THRESHOLDS[graph["precision"]]) for graph in graphs},
        "scale": SCALE,
        "licence_file": LICENCE_FILE,
    }


def _limits(rows: Sequence[Threshold]) -> dict[str, dict[str, Any]]:
    return {row.metric: {"limit": row.limit, "at_least": row.at_least} for row in rows}
