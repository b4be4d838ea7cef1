"""OpenSSF model signatures of bundles (https://openssf.org, `model-signing`), by a key of one's own.

    BUNDLE/model.sig    over every file of the bundle but itself and parity.json, which grows as it is judged

Keys are elliptic-curve keys in PEM:

    openssl ecparam -name prime256v1 -genkey -noout -out key.pem
    openssl ec -in key.pem -pubout -out key.pub

Anybody's tool for OpenSSF signatures can check them. Needs the `sign` extra.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.archive import SIGNATURE_FILE
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.errors import MisuseError, TamperedError, UnavailableError, reason_of
from dinodeploy.files.json_file import parse_json, read_json
from dinodeploy.parity import receipts

_UNSIGNED = (SIGNATURE_FILE, receipts.FILE_NAME)


def sign(root: Path, key: Path, password: str | None = None) -> Path:
    """Sign the bundle at `root` by a private key; an older signature goes. Files are verified first."""
    bundle = open_bundle(root)
    bundle.verify()
    _require_key(key, "private")
    package = _package()
    target = bundle.root / SIGNATURE_FILE
    ignored = [bundle.root / name for name in _UNSIGNED]
    hashing = package.hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)
    try:
        signer = package.signing.Config().use_elliptic_key_signer(private_key=key, password=password)
        signer.set_hashing_config(hashing).sign(bundle.root, target)
    except (ValueError, TypeError) as error:
        raise MisuseError(
            f"{key} cannot sign: {reason_of(error)}; wanted an elliptic-curve key in PEM"
        ) from error
    return target


def verify_signature(root: Path, key: Path) -> None:
    """Hold the bundle at `root` against its signature and a public key.

    Raises TamperedError when a file was changed, added or removed, when the signature is by another key, or
    covers less than the bundle; UnavailableError without the package.
    """
    bundle = open_bundle(root)
    _require_key(key, "public")
    package = _package()
    path = bundle.root / SIGNATURE_FILE
    if not path.is_file():
        raise TamperedError(f"{bundle.root} is not signed, and {key} was required: dinodeploy bundle sign")
    try:
        package.verifying.Config().use_elliptic_key_verifier(public_key=key).verify(bundle.root, path)
    except Exception as error:  # the package raises whatever its parsers do
        raise TamperedError(f"{bundle.root} is not what {key} signed: {reason_of(error)}") from error
    missing = {manifests.FILE_NAME, *bundle.manifest.files} - _signed_names(path)
    if missing:
        raise TamperedError(f"the signature of {bundle.root} leaves out {min(missing)!r}; sign it again")


def _signed_names(path: Path) -> set[str]:
    """What a signature is over."""
    try:
        envelope = read_json(path, "signature", TamperedError)["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        statement = parse_json(payload, f"{path}: payload", "signature", TamperedError)
        return {resource["name"] for resource in statement["predicate"]["resources"]}
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise TamperedError(f"{path} is no signature: {reason_of(error)}") from error


def _require_key(key: Path, kind: str) -> None:
    if not key.is_file():
        raise MisuseError(f"{key}: no such file; wanted a {kind} key in PEM")


def _package() -> Any:
    try:
        import model_signing
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"signatures need {error.name}, which is not installed: pip install 'dinodeploy[sign]'"
        ) from error
    return model_signing
