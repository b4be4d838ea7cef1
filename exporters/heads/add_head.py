"""Make a new, judged bundle from a bundle and a head."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, open_bundle
from dinodeploy.errors import MisuseError
from dinodeploy.files.atomic import atomic_directory
from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import FeaturePyramid, Head, LoadedHead, load_head
from exporters.bundle.stage import judge_staged, refuse_existing
from exporters.heads.attach import attach_head, check_fits

Log = Callable[[str], None]


def add_head(
    bundle: str | Path | Bundle,
    head: LoadedHead | Head,
    out: Path,
    *,
    overwrite: bool = False,
    log: Log = lambda _: None,
) -> tuple[Bundle, tuple[str, ...]]:
    """Write `out`: the bundle with the head appended to every graph. `head` may be a `Head` in memory.

    Returns the new bundle with its receipt, and notes. Raises MisuseError when head and bundle do not fit,
    OutputExistsError when `out` exists, ExportError or LintError when the graph cannot be made,
    JudgementError when its outputs differ from the head's. On an error nothing is written.
    """
    source = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    manifest = source.manifest
    loaded = head if isinstance(head, LoadedHead) else in_memory(head)
    if manifest.head is not None:
        raise MisuseError(
            f"{source.named} already has a head ({manifest.head.kind}); use the bundle without a head"
        )
    notes = check_fits(loaded, manifest.model)
    refuse_existing(out, overwrite)
    names = [name for name in manifest.files if name == GOLDEN_FILE or ".onnx" in name]
    source.verify(names if source.hub is not None else None)
    with atomic_directory(out) as staging:
        log("adding the head")
        for name in names:
            shutil.copyfile(source.root / name, staging / name)
        keep = [output.name for output in manifest.outputs]
        made = attach_head(staging, manifest, loaded, keep)
        receipt, judged = judge_staged(staging, made, log)
        notes = (*notes, *judged)
    plans = [name for name, facts in manifest.engines.items() if facts.build is not None]
    if plans:
        notes = (*notes, f"{', '.join(plans)} not copied; build again: dinodeploy build {out}")
    return replace(open_bundle(out), receipt=receipt), notes


def in_memory(head: Head) -> LoadedHead:
    """A head that is not from a file; its hash covers the names and values of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in head.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return LoadedHead(head, type(head).__name__, "memory", digest.hexdigest())


PYRAMID = "pyramid"
EVEN_24 = (4, 11, 17, 23)  # the blocks that the official code uses (docs/spec.md 5.4)


def find_head(text: str, embed_dim: int, depth: int, patch_size: int) -> LoadedHead:
    """`FILE`, `pyramid` or `pyramid:3,5,7,11`.

    Raises MisuseError, or CheckpointError for a file that is not a head.
    """
    word, _, layers = text.partition(":")
    if word != PYRAMID or Path(text).exists():
        return load_head(Path(text))
    if layers and not all(part.strip().isdecimal() for part in layers.split(",")):
        raise MisuseError(f"--head {text!r}; wanted four block numbers, for instance {PYRAMID}:3,5,7,11")
    chosen = tuple(int(part) for part in layers.split(",")) if layers else four_even(depth)
    try:
        return LoadedHead(FeaturePyramid(embed_dim, chosen, patch_size), "feature_pyramid", "no weights")
    except ConfigError as error:
        raise MisuseError(f"--head {text!r}: {error}") from error


def four_even(depth: int) -> tuple[int, ...]:
    """The last block of each quarter of the model. Raises MisuseError for fewer than four.

    Source: docs/spec.md 5.4.
    """
    if depth < 4:
        raise MisuseError(
            f"a pyramid takes four blocks, this model has {depth}; name them: {PYRAMID}:0,1,2,…"
        )
    return EVEN_24 if depth == 24 else tuple(i * (depth // 4) - 1 for i in range(1, 5))
