"""Signatures by a key of one's own: every change of the bundle is noticed, receipts aside."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dinodeploy.bundle.archive import pack, unpack
from dinodeploy.bundle.bundle import file_facts, open_bundle
from dinodeploy.bundle.manifest import read_manifest, write_manifest
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


def _signed_names(path: Path) -> set[str]:
    statement = json.loads(base64.b64decode(json.loads(path.read_text())["dsseEnvelope"]["payload"]))
    return {resource["name"] for resource in statement["predicate"]["resources"]}


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
    verify_signature(out, keys[1])
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in signed.iterdir()
    }


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("place", ["beside", "inside", "below"])
def test_from_any_working_directory(
    place: str,
    absolute: bool,
    tiny_bundle: Path,
    tmp_path: Path,
    keys: tuple[Path, Path],
    run: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As docs/bundles.md says it, with the paths that people have there."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (tmp_path / "below").mkdir()
    here = {"beside": tmp_path, "inside": copy, "below": tmp_path / "below"}[place]
    monkeypatch.chdir(here)
    bundle, private, public = (
        str(path) if absolute else os.path.relpath(path, here) for path in (copy, *keys)
    )
    ran = run("bundle", "sign", bundle, "--key", private)
    assert (ran.code, "signed, and verified" in ran.out) == (0, True), ran.err
    assert run("bundle", "verify", bundle, "--require-signature", public).code == 0
    names = _signed_names(copy / "model.sig")
    assert names == {path.name for path in copy.iterdir()} - {"model.sig", "parity.json"}
    assert run("bundle", "sign", bundle, "--key", private).code == 0  # again, over an older one


def test_tools_of_others_verify_what_we_sign(signed: Path, keys: tuple[Path, Path]) -> None:
    import model_signing.verifying

    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    config.verify(signed, signed / "model.sig")
    (signed / "model.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match="mismatch"):
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=keys[1]).verify(
            signed, signed / "model.sig"
        )


def test_what_tools_of_others_sign_is_verified(tiny_bundle: Path, tmp_path: Path) -> None:
    """Earlier versions left the whole walk to the package: their signatures stay good."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    private, public = make_key(tmp_path, "mine")
    _sign_without(copy, "", private)
    verify_signature(copy, public)


def _link(target: str) -> Callable[[Path], None]:
    return lambda root: (root / "link").symlink_to(target)


def _nested(name: str) -> Callable[[Path], None]:
    def add(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")

    return add


# what hides beside the signed files
STRANGERS: dict[str, Callable[[Path], object]] = {
    "library": _nested("evil.so"),
    "hidden file": _nested(".evil"),
    "git": _nested(".git/evil"),
    "gitignore": _nested(".gitignore"),
    "gitattributes": _nested(".gitattributes"),
    "github": _nested(".github/workflows/evil.yml"),
    "nested": _nested("a/b/c/evil"),
    "nested manifest": _nested("model.onnx.d/manifest.json"),
    "empty folder": lambda root: (root / "empty").mkdir(),
    "link to a file": _link("model.onnx"),
    "link to a folder": _link(".."),
    "dangling link": _link("absent"),
    "link loop": _link("link"),
    "fifo": lambda root: os.mkfifo(root / "pipe"),
    "line break": _nested("a\nb"),
    "space": _nested(" "),
    "other case": _nested("MODEL.ONNX"),
    "second signature": _nested("model.sig.bak"),
    "partial": _nested(".parity.json.partial-0000000000000000"),
    "desktop": _nested(".DS_Store"),
    "cache": _nested("__pycache__/x.pyc"),
    "receipts link": lambda root: _as_link(root / "parity.json"),
    "receipts folder": lambda root: (
        (root / "parity.json").unlink(missing_ok=True),
        _nested("parity.json/x")(root),
    ),
    "signature link": lambda root: _as_link(root / "model.sig"),
    "file as a link": lambda root: _as_link(root / "model.onnx"),
    "file as a fifo": lambda root: ((root / "model.onnx").unlink(), os.mkfifo(root / "model.onnx")),
    "signature as a fifo": lambda root: ((root / "model.sig").unlink(), os.mkfifo(root / "model.sig")),
}


def _as_link(path: Path) -> None:
    """The same content, through a link to a place outside the bundle."""
    outside = path.parent.with_name(f"outside-{path.name}")
    if path.exists():
        path.rename(outside)
    else:
        outside.write_text("{}")
    path.symlink_to(outside)


@pytest.mark.parametrize("kind", STRANGERS)
def test_nothing_unsigned_hides(kind: str, signed: Path, keys: tuple[Path, Path]) -> None:
    STRANGERS[kind](signed)
    with pytest.raises(TamperedError) as caught:
        verify_signature(signed, keys[1])
    assert "\n" not in str(caught.value)
    with pytest.raises(TamperedError):
        open_bundle(signed, require_signature=keys[1])


@pytest.mark.parametrize("kind", ["library", "git", "nested", "empty folder", "link to a file", "fifo"])
def test_nothing_that_is_not_the_bundle_is_signed(
    kind: str, tiny_bundle: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    STRANGERS[kind](copy)
    with pytest.raises((MisuseError, TamperedError)):
        sign(copy, keys[0])
    assert not (copy / "model.sig").exists()


@pytest.mark.parametrize(
    "change", ["edited", "longer", "removed", "other key", "unsigned", "nonsense", "partial", "other hash"]
)
def test_every_change_is_noticed(change: str, signed: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    key = keys[1]
    if change == "edited":
        (signed / "golden.safetensors").write_bytes(b"x")
    elif change == "longer":
        with (signed / "model.onnx.data").open("ab") as file:
            file.write(b"x")
    elif change == "removed":
        (signed / "golden.safetensors").unlink()
    elif change == "other key":
        key = make_key(tmp_path, "other")[1]
    elif change == "unsigned":
        (signed / "model.sig").unlink()
    elif change == "nonsense":
        (signed / "model.sig").write_text('{"a": 1}')
    elif change == "other hash":
        _sign_without(signed, "", keys[0], hashes="blake2")
    else:
        _sign_without(signed, "model.onnx", keys[0])
    with pytest.raises(TamperedError) as caught:
        verify_signature(signed, key)
    assert "\n" not in str(caught.value)


def test_a_bundle_that_is_not_what_was_exported_is_not_signed(
    tiny_bundle: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    content = bytearray((copy / "model.onnx.data").read_bytes())
    content[100] ^= 1
    (copy / "model.onnx.data").write_bytes(content)
    with pytest.raises(TamperedError, match="not the file that was exported"):
        sign(copy, keys[0])
    assert not (copy / "model.sig").exists()


def test_sign_verifies_what_it_wrote(
    tiny_bundle: Path, tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature that does not verify never takes the place of one that does."""
    import model_signing.signing

    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    sign(copy, keys[0])
    before = (copy / "model.sig").read_bytes()
    real = model_signing.signing.Config.sign

    def spoilt(self: Any, root: Path, target: Path) -> None:
        real(self, root, target)
        (copy / "golden.safetensors").write_bytes(b"changed meanwhile")

    monkeypatch.setattr(model_signing.signing.Config, "sign", spoilt)
    with pytest.raises(TamperedError):
        sign(copy, keys[0])
    assert (copy / "model.sig").read_bytes() == before


def test_what_is_read_is_what_was_verified(signed: Path, keys: tuple[Path, Path]) -> None:
    bundle = open_bundle(signed, require_signature=keys[1])
    assert (bundle.home, bundle.root.parent != signed.parent) == (signed, True)
    assert bundle.root.stat().st_mode & 0o077 == 0
    content = (signed / "model.onnx").read_bytes()
    shutil.rmtree(signed)  # or exchanged, or edited in place
    bundle.verify()
    assert (bundle.root / "model.onnx").read_bytes() == content
    assert not (bundle.root / "parity.json").exists()
    folder = bundle.root
    del bundle
    assert not folder.exists()


def test_an_exchanged_folder_never_wins(
    signed: Path, tiny_bundle: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    """Another bundle, whole and sealed but not signed, takes turns with the signed one."""
    evil = shutil.copytree(signed, tmp_path / "evil")
    for name in ("model.onnx", "model.onnx.data", "golden.safetensors"):
        (evil / name).write_bytes(b"evil" + (evil / name).read_bytes()[4:])
    files = {name: file_facts(evil / name) for name in read_manifest(evil).files}
    write_manifest(replace(read_manifest(evil), files=files), evil)
    open_bundle(evil).verify()
    place, stop = tmp_path / "place", threading.Event()
    place.symlink_to(signed)

    def exchange() -> None:
        for target in itertools.cycle((evil, signed)):
            if stop.is_set():
                return
            (tmp_path / "next").symlink_to(target)
            (tmp_path / "next").replace(place)

    attacker = threading.Thread(target=exchange)
    attacker.start()
    won = refused = 0
    try:
        for _ in range(60):
            try:
                bundle = open_bundle(place, require_signature=keys[1])
            except TamperedError:
                refused += 1
                continue
            bundle.verify()
            assert not (bundle.root / "model.onnx").read_bytes().startswith(b"evil")
            won += 1
    finally:
        stop.set()
        attacker.join()
    assert refused > 0  # the attacker did take part


def _sign_without(root: Path, name: str, key: Path, hashes: Any = "sha256") -> None:
    """A signature by the right key and by the package alone, over less if a name is given."""
    import model_signing.hashing
    import model_signing.signing

    paths = [root / "model.sig", root / "parity.json", *([root / name] if name else [])]
    config = model_signing.hashing.Config().use_file_serialization(hashing_algorithm=hashes)
    config.set_ignored_paths(paths=paths, ignore_git_paths=False)
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
