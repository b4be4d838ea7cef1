"""Files of an npm package: downloaded once, checked against a pinned hash, kept in the cache.

The registry is the one that npm is configured with: the variable `npm_config_registry`, or `registry=` in
~/.npmrc. Source: https://docs.npmjs.com/cli/configuring-npm/npmrc and
https://github.com/npm/registry/blob/main/docs/responses/package-metadata.md (`dist.integrity`).
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.errors import MisuseError, TamperedError, UnavailableError, reason_of
from dinodeploy.files.atomic import atomic_directory
from dinodeploy.files.cache import cache_dir

REGISTRY = "https://registry.npmjs.org"
LARGEST = 256 << 20  # bytes of a package; onnxruntime-web has 33 MB
TIMEOUT = 60  # seconds without an answer


@dataclass(frozen=True)
class Package:
    """One version of an npm package, and the files of its `dist` folder that are needed."""

    name: str
    version: str
    integrity: str  # sha512-… as npm gives it
    files: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"{registry()}/{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


WASM_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU_FILES = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    (*WASM_FILES, *WEBGPU_FILES),
)


def registry() -> str:
    """The address of npm's registry, without a slash at its end. Raises MisuseError unless it is http(s)."""
    address = os.environ.get("npm_config_registry")  # noqa: SIM112  (npm's own spelling)
    address = address or _from_npmrc() or REGISTRY
    if not re.match(r"https?://", address):
        raise MisuseError(f"npm's registry is {address!r}; wanted https://…")
    return address.rstrip("/")


def _from_npmrc() -> str | None:
    try:
        lines = (Path.home() / ".npmrc").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, RuntimeError):  # missing or unreadable: npm has its default then too
        return None
    found = [line.partition("=")[2].strip() for line in lines if re.match(r"\s*registry\s*=", line)]
    return found[-1] if found else None


def fetch(package: Package, log: Callable[[str], None] = lambda _: None) -> Path:
    """A folder of the cache with the package's files. Raises UnavailableError, or TamperedError."""
    place = cache_dir("npm") / f"{package.name.replace('/', '-')}-{package.version}"
    if all((place / name).is_file() for name in package.files):
        return place
    log(f"downloading {package.name} {package.version}")
    content = _download(package)
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if package.integrity != f"sha512-{digest}":
        raise TamperedError(f"{package.url} is not {package.name} {package.version}: its hash is another")
    with atomic_directory(place) as staging, tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in package.files:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None, "the hash has matched"
            (staging / name).write_bytes(member.read())
    return place


def _download(package: Package) -> bytes:
    try:
        with urllib.request.urlopen(package.url, timeout=TIMEOUT) as answer:
            content: bytes = answer.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"{package.url} cannot be downloaded: {reason_of(error)}; on a machine that reaches npm: "
            f"npm pack {package.name}@{package.version}, unpack it, and give the folder as --runtime"
        ) from error
    if len(content) > LARGEST:
        raise UnavailableError(
            f"{package.url} is larger than {LARGEST >> 20} MB; check npm's registry setting"
        )
    return content


def copy_runtime(target: Path, given: Path | None, log: Callable[[str], None] = lambda _: None) -> str:
    """Copy onnxruntime-web into `target`, from the folder `given` or from npm; returns what it is.

    given: an unpacked package, or its `dist` folder. Raises MisuseError if files are missing there.
    """
    source = fetch(RUNTIME, log) if given is None else given / "dist" if (given / "dist").is_dir() else given
    missing = [name for name in RUNTIME.files if not (source / name).is_file()]
    if missing:
        raise MisuseError(f"--runtime {given}: no {missing[0]}; wanted the dist folder of {RUNTIME.name}")
    target.mkdir()
    for name in RUNTIME.files:
        shutil.copyfile(source / name, target / name)
    return f"{RUNTIME.name} {RUNTIME.version}" if given is None else f"{RUNTIME.name} of {given.name}"
