"""Fetch a released checkpoint from the Hugging Face hub: the gated official repository, or timm's mirror.

With a token the official repository is tried first. Without one, or without access, timm's mirror of the same
weights is used; it lacks only what inference never uses (docs/spec.md 3.4). The SHA-256 of every weight file
is compared with the one that the hub recorded, offline too, because the cache names its files by it.
HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE work as in huggingface_hub, which is imported only here.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dinov3_ref.checkpoints.architecture import find_asked
from dinov3_ref.checkpoints.files import sha256_of, shards_of
from dinov3_ref.errors import ConfigError, HubError, reason_of
from dinov3_ref.models.released import RELEASED, ReleasedModel

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SIDECARS = ("config.json", "preprocessor_config.json")  # the mirror has only the first
WAYS_OUT = (
    "ways out: a local file, a token with access (hf auth login), HF_HUB_OFFLINE=1 with a warm cache, "
    "or --weights random"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Fetched:
    """A fetched checkpoint: a directory for `load_checkpoint`, and its origin."""

    path: Path
    source: str  # "repository@commit"
    notes: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return str(self.path)


class _Unavailable(Exception):
    """A repository cannot be used; the message is the short reason."""


class _NoSuchEntry(_Unavailable):
    """The repository (or the cache) exists, but not the file."""


def fetch(
    name: str, *, dataset: str | None = None, revision: str | None = None, offline: bool | None = None
) -> Fetched:
    """Download the released model `name`, or find it in the cache: an arch, torch.hub, HF or timm name.

    `dataset` chooses between the two files of ViT-L and 7B. `offline` (default: HF_HUB_OFFLINE) uses only the
    cache. Raises `ConfigError` for a model that was never released, and `HubError` for problems with the hub,
    the network, access, disk space or a damaged file.
    """
    row = _find(name, dataset)
    try:
        from huggingface_hub import constants, get_token
    except ImportError as error:
        raise HubError("fetching weights needs huggingface_hub: pip install huggingface_hub") from error
    offline = constants.HF_HUB_OFFLINE if offline is None else offline
    official_first = offline or bool(get_token())
    mirror = f"timm/{row.timm_name}" if row.timm_name else None
    notes: tuple[str, ...] = ()
    failures: list[str] = []
    for repo in (row.hf_repo if official_first else None, mirror):
        if repo is None:
            continue
        if repo == mirror and row.hf_repo is not None:
            reason = failures[0] if failures else "no token for the gated official repository"
            notes = (f"weights are from the mirror {mirror} ({reason})",)
        try:
            return _fetch_repository(repo, revision, offline, notes)
        except _Unavailable as error:
            failures.append(f"{repo}: {error}")
    reasons = "; ".join(failures) or "neither the hub nor the mirror has it"
    raise HubError(f"cannot fetch {row.name} ({reasons}); {WAYS_OUT}")


def _find(name: str, dataset: str | None) -> ReleasedModel:
    row = find_asked(name)
    if row is not None and dataset not in (None, row.dataset):
        row = next((other for other in RELEASED if (other.arch, other.dataset) == (row.arch, dataset)), None)
    if row is None:
        asked = f"{name} trained on {dataset}" if dataset else name
        raise ConfigError(f"{asked} was never released; known: {', '.join(known.name for known in RELEASED)}")
    return row


def _fetch_repository(repo: str, revision: str | None, offline: bool, notes: tuple[str, ...]) -> Fetched:
    """Fetch from one repository, or from the cache if the hub does not answer. Raises `_Unavailable`."""
    if offline:
        return _gather(repo, revision, True, notes)
    try:
        _check_reachable(repo, revision)
    except _Unavailable as refusal:
        try:
            return _gather(repo, revision, True, (*notes, f"{repo}: {refusal}; used the cache"))
        except _Unavailable:
            raise refusal from None
    return _gather(repo, revision, False, notes)


def _gather(repo: str, revision: str | None, offline: bool, notes: tuple[str, ...]) -> Fetched:
    """Get all files of one commit and check the weights' hashes.

    Raises `_Unavailable`, or `HubError` for a damaged file.
    """
    try:
        first = _download(repo, WEIGHTS, revision, offline)
        shards: list[str] = []
    except _NoSuchEntry:
        first = _download(repo, INDEX, revision, offline)
        shards = shards_of(first)
    directory = first.parent
    commit = directory.name  # snapshots in the cache are named by commit; all files must be from the same one
    weights = [_download(repo, shard, commit, offline) for shard in shards] or [first]
    for name in SIDECARS:
        with suppress(_NoSuchEntry):
            _download(repo, name, commit, offline)
    unchecked = [path.name for path in weights if not _is_intact(path, repo)]
    if unchecked:
        notes = (*notes, f"{repo} records no SHA-256 for {', '.join(unchecked)}: not checked")
    return Fetched(directory, f"{repo}@{commit}", notes)


def _check_reachable(repo: str, revision: str | None) -> None:
    """Send one request: without a network, a download would retry for half a minute."""
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url

    url = hf_hub_url(repo, SIDECARS[0], revision=revision, endpoint=os.environ.get("HF_ENDPOINT"))
    with _reasons(repo, SIDECARS[0], revision):
        get_hf_file_metadata(url, token=get_token())


def _download(repo: str, filename: str, revision: str | None, offline: bool) -> Path:
    """Download a file; returns its path in the cache."""
    from huggingface_hub import hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT")
    with _reasons(repo, filename, revision):
        return Path(
            hf_hub_download(repo, filename, revision=revision, local_files_only=offline, endpoint=endpoint)
        )


@contextmanager
def _reasons(repo: str, filename: str, revision: str | None) -> Iterator[None]:
    """Turn all exceptions of the hub's client into `_Unavailable` with a short reason."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise _Unavailable(f"access not granted, ask at https://huggingface.co/{repo}") from error
    except errors.RepositoryNotFoundError as error:
        raise _Unavailable("not found, or the token is not valid") from error
    except errors.RevisionNotFoundError as error:
        raise _Unavailable(f"has no revision {revision}") from error
    except errors.LocalEntryNotFoundError as error:
        raise _NoSuchEntry("not in the cache") from error
    except errors.EntryNotFoundError as error:
        raise _NoSuchEntry(f"has no {filename}") from error
    except Exception as error:  # each network library has its own classes
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _Unavailable(f"no space left on the disk under {constants.HF_HUB_CACHE}") from error
        raise _Unavailable(_cause(error)) from error


def _is_intact(path: Path, repo: str) -> bool:
    """True if the file has the recorded SHA-256, False if none is recorded; else raises `HubError`.

    A file in the cache is a link to a blob, whose name is the hash that the hub recorded.
    """
    if not path.is_symlink():
        return False
    blob = path.parent / path.readlink()
    if not _SHA256.fullmatch(blob.name):
        return False
    found = sha256_of(path)
    if found == blob.name:
        return True
    raise HubError(
        f"{path.name} of {repo} is damaged: SHA-256 {found}, the hub recorded {blob.name}; "
        f"delete {os.path.normpath(blob)} and fetch it again"
    )


def _cause(error: BaseException) -> str:
    """Class and message of the innermost exception."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {reason_of(error, 100)}"
