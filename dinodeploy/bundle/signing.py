"""OpenSSF model signatures of bundles (https://openssf.org, `model-signing`), by a key of your own.

    BUNDLE/model.sig    over every file of the bundle but itself and parity.json, which grows as it is judged

Keys are elliptic-curve keys in PEM:

    openssl ecparam -name prime256v1 -genkey -noout -out key.pem
    openssl ec -in key.pem -pubout -out key.pub

Anybody's tool for OpenSSF signatures can check them. Needs the `sign` extra.

The package checks the signature; the files are read here, each once, and every entry of the folder counts: a
hidden file, a link, a folder, a `.git` that the signature does not name is refused. A bundle that is going to
be used is copied into a private folder while it is hashed (`SignedCopy`), so that nobody can exchange files
between the check and their use.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.manifest import LICENCE_FILE, RECEIPTS_FILE, SIGNATURE_FILE, FileFacts
from dinodeploy.errors import DinodeployError, MisuseError, TamperedError, UnavailableError, reason_of
from dinodeploy.files.atomic import atomic_file
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.regular import create_file, open_regular
from dinodeploy.files.unfinished.private import PrivateFolder

UNSIGNED = (SIGNATURE_FILE, RECEIPTS_FILE)
LARGEST = 1 << 24  # bytes of a file that the manifest does not list: itself, a signature, a licence
_CHUNK = 1 << 18
_KEY_BYTES = 1 << 16


class SignedCopy:
    """A private copy of the signed files of a bundle; removed when nothing refers to it any more.

    source: the folder that the user named. key: the public key. files: hash and size of every file, taken
        while it was copied.
    """

    def __init__(self, source: Path, key: Path) -> None:
        self.source = source
        self.key = key.resolve()
        self._folder = PrivateFolder("a verified copy of the bundle")
        self.files: Mapping[str, FileFacts] = _check(source, key, self._folder.path)

    @property
    def root(self) -> Path:
        return self._folder.path


def sign(root: Path, key: Path, password: str | None = None) -> Path:
    """Sign the bundle at `root` by a private key, and verify the signature before it takes its place.

    An older signature is replaced; a missing LICENSE.txt is written first. Raises MisuseError for a key that
    cannot sign and for files that are not the bundle's, TamperedError for a bundle that is not what was
    exported.
    """
    secret = _read_key(key, "private")
    package = _package()
    manifest = manifests.read_manifest(root)
    if LICENCE_FILE not in _names(root):
        manifests.write_licence(manifest, root)
    sizes = {manifests.FILE_NAME: LARGEST, LICENCE_FILE: LARGEST}
    sizes |= {name: facts.bytes for name, facts in manifest.files.items()}
    if strangers := sorted(_names(root) - set(sizes) - set(UNSIGNED)):
        raise MisuseError(f"{root} holds {strangers[0]!r}, which is no file of the bundle; move it elsewhere")
    files = {name: _read(root, name, size) for name, size in sizes.items()}
    if changed := sorted(name for name, facts in manifest.files.items() if files[name] != facts):
        raise TamperedError(f"{root / changed[0]} is not the file that was exported; export it again")
    folder = PrivateFolder("a signature")
    private, public, drafted = (folder.path / name for name in ("key.pem", "key.pub", SIGNATURE_FILE))
    private.write_bytes(secret)
    try:
        signer = package.signing.Config().use_elliptic_key_signer(private_key=private, password=password)
        signer.set_hashing_config(_hashing(package, lambda: files)).sign(root.resolve(), drafted)
        public.write_bytes(_public_key(secret, password))
    except (ValueError, TypeError) as error:
        raise MisuseError(
            f"{key} cannot sign: {reason_of(error)}; wanted an elliptic-curve key in PEM"
        ) from error
    signature = drafted.read_bytes()
    _check(root, public, None, signature)
    with atomic_file(root / SIGNATURE_FILE) as file:
        file.write(signature)
    return root / SIGNATURE_FILE


def verify_signature(root: Path, key: Path) -> None:
    """Hold the bundle at `root` against its signature and a public key.

    Raises TamperedError when a file was changed, added or removed, when the signature is by another key, or
    covers less than the bundle; UnavailableError without the package.
    """
    _check(root, key, None)


def _check(root: Path, key: Path, copy: Path | None, signature: bytes | None = None) -> dict[str, FileFacts]:
    """Verify the signature, and read every file once: hash it, and write what was read into `copy`."""
    public = _read_key(key, "public")
    package = _package()
    if signature is None:
        signature = _read_signature(root, key)
    folder = PrivateFolder("a signature")
    (folder.path / "key.pub").write_bytes(public)
    (folder.path / SIGNATURE_FILE).write_bytes(signature)
    if copy is not None:
        (copy / SIGNATURE_FILE).write_bytes(signature)
    signed = signed_digests(signature, root)
    read: dict[str, FileFacts] = {}

    def read_files() -> dict[str, FileFacts]:  # called after the signature's own check
        read.update(_read_signed(root, signed, copy))
        return read

    try:
        config = package.verifying.Config().use_elliptic_key_verifier(public_key=folder.path / "key.pub")
    except Exception as error:
        raise MisuseError(
            f"{key} cannot verify: {reason_of(error)}; wanted the public half of an elliptic-curve key in PEM"
        ) from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the package prints its warnings
            config.set_hashing_config(_hashing(package, read_files))
            config.verify(root, folder.path / SIGNATURE_FILE)
    except DinodeployError:
        raise
    except Exception as error:  # the package raises whatever its parsers do
        raise TamperedError(f"{root} is not what {key} signed: {reason_of(error)}") from error
    finally:
        folder.remove()
    return read


def _read_signed(root: Path, signed: Mapping[str, str], copy: Path | None) -> dict[str, FileFacts]:
    """Hash and size of every file of the folder. Raises TamperedError at the first that is not as signed."""
    names = _names(root)
    if strangers := sorted(names - set(signed) - set(UNSIGNED)):
        raise TamperedError(f"{root} holds {strangers[0]!r}, which is not signed; remove it")
    if missing := sorted(set(signed) - names):
        raise TamperedError(f"{root} lacks {missing[0]!r}, which was signed; copy the bundle again")
    content = bytearray()
    found = {manifests.FILE_NAME: _read(root, manifests.FILE_NAME, LARGEST, copy, content.extend)}
    _require_signed(root, manifests.FILE_NAME, found, signed)  # before it is parsed
    manifest = manifests.parse_manifest(bytes(content), str(root / manifests.FILE_NAME))
    if missing := sorted(set(manifest.files) - set(signed)):
        raise TamperedError(f"the signature of {root} leaves out {missing[0]!r}; sign it again")
    for name in sorted(set(signed) - set(found)):
        listed = manifest.files.get(name)
        found[name] = _read(root, name, listed.bytes if listed else LARGEST, copy)
        _require_signed(root, name, found, signed)
    return found


def _require_signed(root: Path, name: str, found: Mapping[str, FileFacts], signed: Mapping[str, str]) -> None:
    if found[name].sha256 != signed.get(name):
        raise TamperedError(f"{root / name} is not the file that was signed; copy the bundle again")


def _read(
    root: Path,
    name: str,
    limit: int,
    copy: Path | None = None,
    keep: Callable[[memoryview], object] = lambda chunk: None,
) -> FileFacts:
    """Read a file once: its hash and size; what was read goes to `keep` and into the folder `copy`."""
    digest, size = hashlib.sha256(), 0
    with _chunks(root / name) as chunks, _writing(copy, name) as write:
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise TamperedError(f"{root / name} has more than the {limit:,} bytes it should have")
            digest.update(chunk)
            keep(chunk)
            write(chunk)
    return FileFacts(digest.hexdigest(), size)


@contextlib.contextmanager
def _chunks(path: Path) -> Iterator[Iterator[memoryview]]:
    """The content of a regular file, not of a link. Raises TamperedError."""

    def read(file: BinaryIO) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(_CHUNK))  # fresh memory for each chunk costs as much as hashing
        try:
            while size := file.readinto(buffer):  # type: ignore[attr-defined]
                yield buffer[:size]
        except OSError as error:
            raise TamperedError(f"{path} cannot be read: {reason_of(error)}") from error

    try:
        file = open_regular(path, follow=False)
    except OSError as error:
        raise TamperedError(f"{path} cannot be read: {reason_of(error)}") from error
    with file:
        yield read(file)


@contextlib.contextmanager
def _writing(copy: Path | None, name: str) -> Iterator[Callable[[memoryview], object]]:
    """Write into a file of the private folder, if there is one. Raises UnavailableError."""
    if copy is None:
        yield lambda chunk: None
        return
    try:
        with create_file(copy / name) as file:
            yield file.write
    except OSError as error:
        raise UnavailableError(
            f"{copy}: no copy of the bundle can be made: {reason_of(error)}; set TMPDIR to a folder with "
            "enough space"
        ) from error


def _names(root: Path) -> set[str]:
    """The regular files of a bundle's folder. Raises TamperedError for any other entry in it."""
    names = set()
    with os.scandir(root) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                kind = "a link" if entry.is_symlink() else "a folder" if entry.is_dir() else "no regular file"
                raise TamperedError(f"{root} holds {entry.name!r}, {kind}; a signed bundle has files only")
            names.add(entry.name)
    return names


def _read_signature(root: Path, key: Path) -> bytes:
    path = root / SIGNATURE_FILE
    if not path.is_symlink() and not path.exists():
        raise TamperedError(f"{root} is not signed, and {key} was required: dinodeploy bundle sign")
    content = bytearray()
    _read(root, SIGNATURE_FILE, LARGEST, None, content.extend)
    return bytes(content)


def signed_digests(signature: bytes, root: Path) -> dict[str, str]:
    """SHA-256 of each file that a signature is over. Raises TamperedError, also for other hashes."""
    where = str(root / SIGNATURE_FILE)
    try:
        envelope = parse_json(signature, where, "signature", TamperedError)["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        statement = parse_json(payload, f"{where}: payload", "signature", TamperedError)
        resources = statement["predicate"]["resources"]
        if wrong := sorted({one["algorithm"] for one in resources} - {"sha256"}):
            raise ValueError(f"it has {wrong[0]!r} hashes, wanted sha256")
        return {one["name"]: one["digest"] for one in resources}
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise TamperedError(f"{where} is no signature: {reason_of(error)}; sign the bundle again") from error


def _read_key(key: Path, kind: str) -> bytes:
    try:
        with open_regular(key) as file:
            return file.read(_KEY_BYTES)
    except FileNotFoundError as error:
        raise MisuseError(f"{key}: no such file; wanted a {kind} key in PEM") from error
    except OSError as error:
        raise MisuseError(f"{key}: {reason_of(error)}; wanted a file with a {kind} key in PEM") from error


def _public_key(secret: bytes, password: str | None) -> bytes:
    from cryptography.hazmat.primitives import serialization  # which model-signing needs

    private = serialization.load_pem_private_key(secret, password.encode() if password else None)
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _hashing(package: Any, read: Callable[[], Mapping[str, FileFacts]]) -> Any:
    """What the package asks for the hashes of a model, answered by `read` and not by its own walk."""

    class Given(package.hashing.Config):
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            own, digest = package.manifest, package.manifest.hashing.Digest
            kind = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
            return own.Manifest(
                Path(model_path).name,
                [
                    own.FileManifestItem(
                        path=PurePosixPath(name), digest=digest("sha256", bytes.fromhex(facts.sha256))
                    )
                    for name, facts in read().items()
                ],
                own.SerializationType.from_args({**kind, "ignore_paths": list(UNSIGNED)}),
            )

        def add_ignored_paths(self, *, model_path: Any, paths: Any) -> None:
            """A signature may not name files that it leaves out."""

    return Given()


def _package() -> Any:
    try:
        import model_signing
        import model_signing.hashing
        import model_signing.manifest
        import model_signing.signing
        import model_signing.verifying
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"signatures need {error.name}, which is not installed: pip install 'dinodeploy[sign]'"
        ) from error
    return model_signing
