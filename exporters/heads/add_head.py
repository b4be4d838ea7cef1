"""A bundle and a head become a new bundle, judged, or nothing at all."""

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
    """Write `out`: the bundle's graphs with the head behind them. A `Head` in memory is taken as it is.

    Returns the new bundle with its receipt, and notes. Raises MisuseError when head and bundle do not fit,
    OutputExistsError when `out` is taken, ExportError or LintError when no proper graph comes out,
    JudgementError when it does not compute what the head does. Then nothing is left.
    """
    source = open_bundle(bundle)
    manifest = source.manifest
    loaded = head if isinstance(head, LoadedHead) else in_memory(head)
    if manifest.head is not None:
        raise MisuseError(
            f"{source.root} has a head already ({manifest.head.kind}); add to the bundle without one"
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
        notes = (*notes, f"{', '.join(plans)} not carried over; build again: dinodeploy build {out}")
    return replace(open_bundle(out), receipt=receipt), notes


def in_memory(head: Head) -> LoadedHead:
    """A head that comes from no file; its hash is over names and values of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in head.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return LoadedHead(head, type(head).__name__, "memory", digest.hexdigest())
