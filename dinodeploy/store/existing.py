"""Inspect the output path: nothing, an unfinished store, a complete store, or something else."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.errors import BundleError, OutputExistsError
from dinodeploy.files.atomic import replace
from dinodeploy.files.owned import owned_path, remove_owned
from dinodeploy.files.system_files import entries, is_in_system_folder
from dinodeploy.store.formats import is_shard_file
from dinodeploy.store.generations import BASE, manifest_files, work_files
from dinodeploy.store.manifest import FILE_NAME, QUARANTINE, StoreManifest, read_manifest, read_manifest_file
from dinodeploy.store.plan import PLAN, WORK, Plan, read_plan

REPLACED = f"{WORK}/replaced.json"  # embeddings.json of a store that is being removed


@dataclass(frozen=True)
class Target:
    """An unfinished store, a complete one, a complete one with an unfinished update (both), or nothing."""

    begun: Plan | None = None
    complete: StoreManifest | None = None


def inspect_target(out: Path, plan: Plan, overwrite: bool = False, *, images: bool = True) -> Target:
    """What a run of `plan` can resume at `out`. Raises OutputExistsError for anything it cannot resume.

    With `overwrite`, never resume; refuse to delete anything but a dinodeploy store. images: whether other
    images than the plan's are refused too.
    """
    if not out.exists() or (out.is_dir() and _is_empty(out)):
        return Target()
    if not out.is_dir():
        raise OutputExistsError(f"{out} is a file, wanted a directory; choose another --out")
    if overwrite:
        _refuse_foreign(out)
        return Target()
    if (out / FILE_NAME).is_file():
        manifest = read_manifest(out)
        if differences := _differences(manifest, plan, images):
            raise OutputExistsError(f"{out} holds other embeddings ({differences}); {_FIX}")
        return Target(read_plan(out), manifest)
    begun = read_plan(out)
    if begun is None and (out / REPLACED).is_file():
        return Target()
    if begun is None:
        raise OutputExistsError(f"{out} is not empty and holds no {FILE_NAME}; choose another --out")
    if differences := begun.differences(plan, images=images and begun.pieces is None):
        raise OutputExistsError(f"{out} was started with other settings ({differences}); {_FIX}")
    return Target(begun=begun)


def clear_target(out: Path) -> None:
    """Remove the store at `out`, finished or not. If interrupted, the next call finishes the removal."""
    if (out / FILE_NAME).is_file():
        replace(out / FILE_NAME, out / REPLACED)  # from here on it is not a store
    remove_owned(out, _own_files(out), is_store_file)
    (out / WORK / PLAN).unlink(missing_ok=True)
    shutil.rmtree(out / WORK / "shards", ignore_errors=True)
    for path in [*(out / WORK).glob("old-*.json"), out / BASE]:
        path.unlink(missing_ok=True)
    (out / REPLACED).unlink(missing_ok=True)


def drop_empty_work(out: Path) -> None:
    """Remove the work folder of a store if it holds locks only."""
    work = out / WORK
    with suppress(OSError):
        if all(path.name == "gate" or path.name.startswith("part-") for path in work.iterdir()):
            shutil.rmtree(work)


_FIX = "pass --overwrite to start again, or choose another --out"


def _differences(manifest: StoreManifest, plan: Plan, images: bool) -> str:
    """How a complete store differs from `plan`; empty if it does not."""
    if manifest.plan is None:
        return "an older dinodeploy wrote it"
    return plan_of(manifest, manifest.plan.shard_size).differences(plan, images=images)


def plan_of(manifest: StoreManifest, shard_size: int) -> Plan:
    """The plan that would make a store like a complete one."""
    dtypes = {facts.dtype for facts in manifest.outputs.values()}
    return Plan(
        listing_sha256=manifest.plan.listing_sha256 if manifest.plan is not None else "",
        pictures=manifest.plan.pictures if manifest.plan is not None else 0,
        shard_size=shard_size,
        outputs=tuple(manifest.outputs),
        format=manifest.format,
        dtype=dtypes.pop() if dtypes else "float32",
        batch=1,
        fingerprint=manifest.fingerprint,
        normalize=manifest.normalize,
    )


def _is_empty(out: Path) -> bool:
    """Whether the folder is empty but for the locks that a run killed before its plan leaves."""
    names = [path.name for path in entries(out)]
    if names == [WORK]:
        work = {path.name for path in (out / WORK).iterdir()}
        return not work & {PLAN, Path(REPLACED).name}
    return not names


def _own_files(out: Path) -> set[str]:
    """The files of a store, finished or not, listed in its manifest and its records."""
    files: set[str] = {FILE_NAME, QUARANTINE, *work_files(out)}
    for path in (out / FILE_NAME, out / REPLACED):
        if path.is_file():
            files.update(manifest_files(read_manifest_file(path)))
    for name in files:
        owned_path(out, name, is_store_file)
    return files


def is_store_file(name: str) -> bool:
    """Whether `embed` can write a file of this name into a store."""
    return name in (FILE_NAME, QUARANTINE) or is_shard_file(name)


def _refuse_foreign(out: Path) -> None:
    """Raise OutputExistsError if anything but a dinodeploy store is at `out`."""
    try:
        if not (out / FILE_NAME).is_file() and read_plan(out) is None and not (out / REPLACED).is_file():
            raise BundleError(f"it holds no {FILE_NAME}")
        ours = _own_files(out)
    except BundleError as error:
        raise OutputExistsError(
            f"{out} is not an embedding directory, so it is not deleted; {error}"
        ) from error
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        folder = path.is_dir() and not path.is_symlink()
        if is_in_system_folder(name):
            continue
        if name not in ours and not folder and name.partition("/")[0] != WORK:
            raise OutputExistsError(
                f"{out} also holds {name!r}, so it is not deleted; move it, or choose another --out"
            )
