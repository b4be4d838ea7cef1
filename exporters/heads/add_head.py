"""Make a new, judged bundle from a bundle and a head."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, open_bundle
from dinodeploy.errors import MisuseError
from dinodeploy.files.atomic import begin_directory, commit_directory
from dinov3_ref.heads import Head, LoadedHead
from exporters.bundle.stage import judge_staged, refuse_existing
from exporters.heads.attach import attach_head, check_fits

Log = Callable[[str], None]


def add_head(
    bundle: Path,
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
    source = open_bundle(bundle)
    manifest = source.manifest
    loaded = head if isinstance(head, LoadedHead) else in_memory(head)
    if manifest.head is not None:
        raise MisuseError(
            f"{source.root} already has a head ({manifest.head.kind}); use the bundle without a head"
        )
    notes = check_fits(loaded, manifest.model)
    refuse_existing(out, overwrite)
    source.verify()
    staging = begin_directory(out)
    try:
        log("adding the head")
        names = [name for name in manifest.files if name == GOLDEN_FILE or ".onnx" in name]
        for name in names:
            shutil.copyfile(source.root / name, staging / name)
        keep = [output.name for output in manifest.outputs]
        made = attach_head(staging, manifest, loaded, keep)
        receipt = judge_staged(staging, made, log)
        commit_directory(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
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
