"""A bundle on the hub as a folder of this user, into which a file comes when it is first verified.

The hub's cache has links where runtimes want files, and may be read-only, so the bundle's folder is
`~/.cache/dinodeploy/hub/ORG--NAME/DIGEST`, by the digest of the manifest: hard links to the files of the
hub's cache, or copies where it is on another disk; and the receipts of this machine. A revision is resolved
to a commit once, when the bundle is opened, and every file is of that commit.

Nothing is trusted: the manifest must pass the checks of any other, names are plain file names, the hub's own
list must have the manifest's sizes and hashes before anything large is downloaded, and `Bundle.verify` hashes
what arrived.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.manifest import EXTRAS, RECEIPTS_FILE, FileFacts, Manifest
from dinodeploy.errors import BundleError, HubError, TamperedError, reason_of
from dinodeploy.files.atomic import atomic_file
from dinodeploy.files.cache import cache_dir
from dinodeploy.files.notes import note_once
from dinodeploy.files.regular import is_regular, open_regular, read_regular
from dinodeploy.hub.client import HubClient, Listed, NotThere, Unreachable
from dinodeploy.hub.reference import HubReference, parse

_CHUNK = 1 << 22


@dataclass(frozen=True)
class HubFiles:
    """The files of one bundle at one commit.

    reference: its revision is the commit. root: the folder on this disk. files: what the manifest lists.
    """

    reference: HubReference
    root: Path
    files: dict[str, FileFacts]
    client: HubClient = field(compare=False, repr=False)

    def present(self) -> tuple[str, ...]:
        """The files of the manifest that are on this disk."""
        return tuple(name for name in self.files if is_regular(self.root / name))

    def provide(self, name: str, check: Callable[[Path, FileFacts], None]) -> None:
        """Have a file of the manifest in `root`; `check` raises TamperedError where it is another.

        A damaged one is downloaded once more. Raises HubError, BundleError, TamperedError.
        """
        path, facts = self.root / name, self.files[name]
        if not is_regular(path):
            self._bring(name)
        try:
            check(path, facts)
        except TamperedError as error:
            if self.client.offline:
                raise TamperedError(
                    f"{self.reference.inside(name)} is damaged on this disk ({reason_of(error)}); without "
                    "HF_HUB_OFFLINE it is downloaded again"
                ) from error
            note_once(f"{self.reference.inside(name)} is damaged on this disk; downloaded again")
            self._bring(name, again=True)
            try:
                check(path, facts)
            except TamperedError as error:
                raise TamperedError(
                    f"{self.reference.inside(name)}: what the hub sends is not what the manifest lists: "
                    f"{reason_of(error)}"
                ) from error

    def provide_extras(self, names: Iterable[str]) -> None:
        """Have files in `root` that no manifest lists (signature, licence, receipts), if the hub has them."""
        for name in names:
            try:
                self._place(self._extra(name), name)
            except NotThere:
                if not self.client.offline:  # what another commit of the same files had
                    (self.root / name).unlink(missing_ok=True)

    def _extra(self, name: str) -> Path:
        """A file that the manifest does not list, in the hub's cache. Raises NotThere."""
        if (cached := self.client.cached(self.reference, name)) is not None:
            return cached
        if self.client.offline:
            raise NotThere(f"{self.reference} has no {name} in the cache")
        if name not in self._listed:
            raise NotThere(f"{self.reference} has no {name}")
        if self._listed[name].bytes > EXTRAS[name]:
            raise BundleError(f"{self.reference.inside(name)} has {self._listed[name].bytes:,} bytes")
        return self.client.download(self.reference, name)

    def _bring(self, name: str, *, again: bool = False) -> None:
        """A file from the hub, or from its cache."""
        found = None if again else self.client.cached(self.reference, name)
        if found is None:
            if self.client.offline:
                raise HubError(
                    f"{self.reference.inside(name)} is not in the cache, and HF_HUB_OFFLINE is set; run the "
                    "same once online, or: hf download"
                )
            self._check_listed(name)
            found = self.client.download(self.reference, name, again=again)
        self._place(found, name)

    def _check_listed(self, name: str) -> None:
        """Before a download: the hub must have what the manifest lists. Raises BundleError, TamperedError."""
        listed, facts = self._listed.get(name), self.files[name]
        if listed is None:
            raise BundleError(f"{self.reference} has no {name}, which its manifest lists; push it again")
        if listed.bytes != facts.bytes or listed.sha256 not in (None, facts.sha256):
            raise TamperedError(
                f"{self.reference.inside(name)} is not the file that was exported: the hub has "
                f"{listed.bytes:,} bytes{_short(listed.sha256)}, the manifest says {facts.bytes:,} bytes"
                f"{_short(facts.sha256)}; push the bundle again"
            )

    @cached_property
    def _listed(self) -> dict[str, Listed]:
        return self.client.list_files(self.reference, [*self.files, *EXTRAS])

    def _place(self, source: Path, name: str) -> None:
        """Link or copy a file of the hub's cache into `root`, in place of what is there."""
        target = self.root / name
        source = source.resolve()  # the cache has links to its blobs
        self.root.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:  # by another process, this moment
            return
        except OSError:  # another disk, a file of another user, a file system without links
            with open_regular(source) as file, atomic_file(target) as copy:
                shutil.copyfileobj(file, copy, _CHUNK)


def open_on_hub(path: str | os.PathLike[str]) -> tuple[HubFiles, Manifest, str | None]:
    """The bundle that `hf://…` names, and the engine file where the last name is one.

    Downloads the manifest and the receipts. Raises MisuseError for a malformed reference, HubError for
    the hub, BundleError where there is no bundle.
    """
    asked, client = parse(path), HubClient()
    try:
        return *_open(asked, client), None
    except (NotThere, Unreachable) as error:
        above = asked.split_file()
        seen = above is not None and client.cached(above[0], manifests.FILE_NAME) is not None
        if above is not None and (seen or isinstance(error, NotThere)):
            with suppress(NotThere):
                return *_open(above[0], client), above[1]
        if isinstance(error, Unreachable):
            raise
        raise BundleError(
            f"{asked} is no bundle: the repository has no {asked.path_of(manifests.FILE_NAME)} at "
            f"{asked.revision}; push one: dinodeploy bundle push BUNDLE {asked.repo}"
        ) from error


def _open(asked: HubReference, client: HubClient) -> tuple[HubFiles, Manifest]:
    path = _manifest_path(asked, client)
    above = path.parents[len(asked.folder.split("/")) if asked.folder else 0]
    pinned = replace(asked, revision=above.name)  # the cache names its folders by commit
    if not pinned.is_commit:
        raise BundleError(f"{asked}: {above} is in no cache of the hub; wanted a folder named by a commit")
    content = read_regular(path)
    manifest = manifests.parse_manifest(content, str(pinned.inside(manifests.FILE_NAME)))
    root = cache_dir("hub") / asked.repo.replace("/", "--") / manifest.digest
    files = HubFiles(pinned, root, dict(manifest.files), client)
    _write_manifest(root, content)
    if not (root / RECEIPTS_FILE).exists():
        with suppress(Unreachable):
            files.provide_extras((RECEIPTS_FILE,))
    return files, manifest


def _manifest_path(asked: HubReference, client: HubClient) -> Path:
    """The manifest in the hub's cache: of now, or where the hub cannot be reached, as it was last seen."""
    name = manifests.FILE_NAME
    cached = client.cached(asked, name)
    if cached is not None and (asked.is_commit or client.offline):
        return cached
    if client.offline:
        raise Unreachable(f"{asked}: {name} is not in the hub's cache, and HF_HUB_OFFLINE is set")
    try:
        size = client.size_of(asked, name)
    except Unreachable as error:
        if cached is None:
            raise
        note_once(f"{error}; {asked} is taken from the cache")
        return cached
    if size is not None and size > EXTRAS[name]:
        raise BundleError(f"{asked.inside(name)} has {size:,} bytes, wanted at most {EXTRAS[name]:,}")
    return client.download(asked, name)


def _write_manifest(root: Path, content: bytes) -> None:
    """Write the manifest as the repository has it: a signature is over its bytes."""
    path = root / manifests.FILE_NAME
    with suppress(OSError):
        if read_regular(path) == content:
            return
    root.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(content)


def _short(sha256: str | None) -> str:
    return f" ({sha256[:12]}…)" if sha256 else ""
