"""Signatures by a key of one's own: every change of the bundle is noticed, receipts aside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dinodeploy.bundle.archive import pack, unpack
from dinodeploy.bundle.signing import sign, verify_signature
from dinodeploy.errors import MisuseError, TamperedError
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine, Ran


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def assert_one_line(ran: Ran, words: str) -> None:
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.error


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_key(tmp_path, "mine")


@pytest.fixture
def signed(tiny_bundle: Path, tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    sign(copy, keys[0])
    return copy


def test_signed_packed_judged_and_still_signed(signed: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    verify_signature(signed, keys[1])
    (signed / "parity.json").write_text('{"format": 1, "receipts": []}')  # grows with every machine
    verify_signature(signed, keys[1])
    out = unpack(pack(signed, tmp_path / "x.zip"), tmp_path / "out")
    (out / "LICENSE.txt").unlink()  # written while packing, so not signed
    verify_signature(out, keys[1])


@pytest.mark.parametrize(
    "change", ["edited", "added", "removed", "other key", "unsigned", "nonsense", "partial"]
)
def test_every_change_is_noticed(change: str, signed: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    key = keys[1]
    if change == "edited":
        (signed / "golden.safetensors").write_bytes(b"x")
    elif change == "added":
        (signed / "evil.so").write_bytes(b"x")
    elif change == "removed":
        (signed / "golden.safetensors").unlink()
    elif change == "other key":
        key = make_key(tmp_path, "other")[1]
    elif change == "unsigned":
        (signed / "model.sig").unlink()
    elif change == "nonsense":
        (signed / "model.sig").write_text('{"a": 1}')
    else:
        _sign_without(signed, "model.onnx", keys[0])
    with pytest.raises(TamperedError) as caught:
        verify_signature(signed, key)
    assert "\n" not in str(caught.value)


def _sign_without(root: Path, name: str, key: Path) -> None:
    """A signature by the right key, over less."""
    import model_signing.hashing
    import model_signing.signing

    paths = [root / "model.sig", root / "parity.json", root / name]
    config = model_signing.hashing.Config().set_ignored_paths(paths=paths, ignore_git_paths=False)
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
    signer.set_hashing_config(config).sign(root, root / "model.sig")


def test_keys_that_are_none(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="no such file"):
        sign(signed, tmp_path / "none.pem")
    (tmp_path / "words.pem").write_text("words")
    with pytest.raises(MisuseError, match="cannot sign"):
        sign(signed, tmp_path / "words.pem")


def test_the_commands(
    tiny_bundle: Path,
    tmp_path: Path,
    keys: tuple[Path, Path],
    run: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    photograph("coffee").save(tmp_path / "coffee.jpg")
    require = ("--require-signature", keys[1])
    assert_one_line(run("bundle", "verify", copy, *require), "is not signed")
    assert run("bundle", "sign", copy, "--key", keys[0]).code == 0
    ran = run("bundle", "verify", copy, *require, "--json")
    assert json.loads(ran.out)["signature_verified"] is True
    for command in (
        ("check", copy),
        ("embed", tmp_path / "coffee.jpg", "--engine", copy, "--out", tmp_path / "out"),
    ):
        (copy / "extra").write_text("x")
        assert_one_line(run(*command, *require), "signed")
        (copy / "extra").unlink()
    assert run("check", copy, *require).code == 0
    packed = pack(copy, tmp_path / "x.zip")
    other = make_key(tmp_path, "other")[1]
    monkeypatch.chdir(tmp_path)
    assert_one_line(run("bundle", "unpack", packed, "--require-signature", other), "signed")
    assert not (tmp_path / "x").exists()
