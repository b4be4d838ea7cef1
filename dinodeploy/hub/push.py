"""Upload to a model repository of the Hugging Face hub: only what changed, in one commit.

    from dinodeploy.hub.push import push

    push("bundle", "org/name", private=True)

The bundle is verified first (`contents.py`). Beside its files go the receipts, the licence, a signature if
there is one, and the model card (`card.py`). Files that an earlier push put there, and that are no longer
part of the bundle, are removed; every other file of the repository stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import Bundle, sha256_file
from dinodeploy.bundle.manifest import EXTRAS
from dinodeploy.errors import BundleError, HubError, MisuseError
from dinodeploy.files.regular import read_regular
from dinodeploy.hub.card import CARD_FILE, make_card
from dinodeploy.hub.client import HubClient, Listed, NotThere, listed
from dinodeploy.hub.contents import Content, read_contents
from dinodeploy.hub.reference import DEFAULT_REVISION, HubReference, parse


@dataclass(frozen=True)
class Pushed:
    """What a push did, or with `dry_run` would do. Paths are those in the repository.

    commit: the new one; where nothing had changed, that of before; None with `dry_run`. url: of the revision.
    is_bundle: an engine for `hf://`, and not a folder for transformers.js.
    """

    reference: HubReference
    commit: str | None
    url: str
    uploaded: dict[str, int]  # path -> bytes
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    creates: bool  # the repository is new
    private: bool
    licence: str
    is_bundle: bool = True

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `bundle push --json` prints them."""
        facts = {"repository": self.reference.repo, "folder": self.reference.folder}
        facts |= {"revision": self.reference.revision, "url": self.url}
        facts |= {"engine": str(self.reference)} if self.is_bundle else {}
        lists = {"unchanged": list(self.unchanged), "removed": list(self.removed)}
        more = {"created": self.creates, "private": self.private, "licence": self.licence}
        return {**facts, "commit": self.commit, "uploaded": self.uploaded, **lists, **more}


@dataclass(frozen=True)
class _Remote:
    """The repository as it is. files: None where it does not exist."""

    files: dict[str, Listed] | None
    commit: str | None = None
    private: bool = False
    has_revision: bool = True


def push(
    bundle: str | Path | Bundle,
    target: str,
    *,
    revision: str | None = None,
    private: bool = False,
    gated: bool = False,
    message: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    require_signature: str | Path | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Pushed:
    """Upload a bundle to `target`, ORG/NAME or ORG/NAME/FOLDER; the repository is made if it is missing.

    bundle: may also be a folder that `export --layout transformers` wrote, which has a card of its own.
    revision: the branch, made if it is missing; default: main. private: make a private repository; refused
    for a public one that exists. gated: users must accept the licence before they get the files. message: of
    the commit. token: default: HF_TOKEN, or that of `hf auth login`. dry_run: change nothing.
    require_signature: a public key file, with which a bundle in a folder must be signed. log: gets what
    will be uploaded, and the licence.

    Raises TamperedError or BundleError for a bundle that is not what was exported, MisuseError, HubError.
    """
    reference = parse(target, revision)
    if reference.is_commit:
        raise MisuseError(f"{reference}: a commit cannot be pushed to; wanted a branch")
    contents = read_contents(bundle, reference, require_signature=require_signature)
    client = HubClient(token)
    if client.offline:
        raise HubError("HF_HUB_OFFLINE is set, and a push needs the hub; unset it")
    if client.token is None and not dry_run:
        raise HubError(
            f"a push to {reference.repo} needs a token with write access: hf auth login, or set HF_TOKEN"
        )
    remote = _look(client, reference)
    if private and remote.files is not None and not remote.private:
        raise MisuseError(
            f"{reference.repo} exists and is public; make it private in its settings, or leave --private out"
        )
    files = contents.files | _card(client, contents.bundle, reference, remote)
    there = remote.files or {}
    changed = {
        path: content
        for path, content in files.items()
        if not _is_same(content, there.get(path), contents.hashes.get(path))
    }
    pushed = Pushed(
        reference,
        None,
        f"{client.endpoint}/{reference.repo}/tree/{reference.revision}",
        {path: _size(content) for path, content in changed.items()},
        tuple(sorted(files.keys() - changed.keys())),
        tuple(sorted(_stale(client, reference, remote, files))) if contents.bundle is not None else (),
        remote.files is None,
        private or remote.private,
        contents.licence,
        contents.bundle is not None,
    )
    _tell(pushed, log)
    if dry_run:
        return pushed
    text = message or f"Upload {contents.title} with dinodeploy"
    return _commit(client, pushed, remote, changed, text, gated=gated)


def _card(
    client: HubClient, bundle: Bundle | None, reference: HubReference, remote: _Remote
) -> dict[str, Content]:
    """The model card: what the repository has, with this bundle's part of it as it is now."""
    if bundle is None:
        return {}
    before = None
    if remote.files and CARD_FILE in remote.files:
        at_root = HubReference(reference.repo, "", remote.commit or DEFAULT_REVISION)
        before = read_regular(client.download(at_root, CARD_FILE)).decode("utf-8", "replace")
    return {CARD_FILE: make_card(bundle, reference, client.package, before).encode()}


def _look(client: HubClient, reference: HubReference) -> _Remote:
    """The repository and the branch. Raises HubError."""
    errors = client.package.errors
    with client.failures(reference):
        try:
            info = client.api.repo_info(reference.repo, revision=reference.revision, files_metadata=True)
        except errors.GatedRepoError:
            raise
        except errors.RevisionNotFoundError:
            info = client.api.repo_info(reference.repo, files_metadata=True)
            return _Remote(_siblings(info), info.sha, bool(info.private), has_revision=False)
        except errors.RepositoryNotFoundError:
            return _Remote(None, has_revision=reference.revision == DEFAULT_REVISION)
    return _Remote(_siblings(info), info.sha, bool(info.private))


def _siblings(info: Any) -> dict[str, Listed]:
    return {sibling.rfilename: listed(sibling) for sibling in info.siblings or ()}


def _stale(client: HubClient, reference: HubReference, remote: _Remote, files: Collection[str]) -> set[str]:
    """Files of the bundle that was here before and that this one does not have."""
    path = reference.path_of(manifests.FILE_NAME)
    if not remote.files or path not in remote.files:
        return set()
    names = set(EXTRAS)
    before = HubReference(reference.repo, reference.folder, remote.commit or DEFAULT_REVISION)
    if remote.files[path].bytes <= EXTRAS[manifests.FILE_NAME]:
        with suppress(BundleError, NotThere):  # not of ours: nothing of it is known
            content = read_regular(client.download(before, manifests.FILE_NAME))
            names |= set(manifests.parse_manifest(content, str(before)).files)
    return {reference.path_of(name) for name in names} & remote.files.keys() - set(files)


def _is_same(content: Content, there: Listed | None, sha256: str | None) -> bool:
    """Whether the hub has a file as it is here; sha256: of the content, if it is known."""
    if there is None or there.bytes != _size(content):
        return False
    if there.sha256 is not None:
        return there.sha256 == (sha256 or _sha256(content))
    data = content if isinstance(content, bytes) else read_regular(content)
    return there.blob == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _sha256(content: Content) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_file(content)


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _tell(pushed: Pushed, log: Callable[[str], None]) -> None:
    kind = "private" if pushed.private else "public"
    made = f"makes the {kind} repository" if pushed.creates else f"{kind} repository"
    log(f"{pushed.reference}: {made} {pushed.reference.repo}, revision {pushed.reference.revision}")
    for path, size in pushed.uploaded.items():
        log(f"upload     {path}  {size:,} bytes")
    for path in pushed.removed:
        log(f"remove     {path}")
    if pushed.unchanged:
        log(f"unchanged  {len(pushed.unchanged)} files")
    log(f"licence    {pushed.licence}")


def _commit(
    client: HubClient,
    pushed: Pushed,
    remote: _Remote,
    changed: dict[str, Content],
    message: str,
    *,
    gated: bool,
) -> Pushed:
    """Make what is missing, and one commit. Raises HubError."""
    api, package, reference = client.api, client.package, pushed.reference
    operations: list[Any] = [
        package.CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in changed.items()
    ]
    operations += [package.CommitOperationDelete(path, is_folder=False) for path in pushed.removed]
    commit = remote.commit
    with client.failures(reference, "push"):
        if remote.files is None:
            api.create_repo(reference.repo, private=pushed.private, exist_ok=True)
        if not remote.has_revision:
            api.create_branch(reference.repo, branch=reference.revision, exist_ok=True)
        if gated:
            api.update_repo_settings(reference.repo, gated="auto")
        if operations:
            made = api.create_commit(
                reference.repo,
                operations,
                commit_message=message,
                revision=reference.revision,
                parent_commit=commit if remote.has_revision else None,
            )
            commit = made.oid
    return Pushed(**{**pushed.__dict__, "commit": commit})
