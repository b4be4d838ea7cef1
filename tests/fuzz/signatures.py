"""Attacks on signatures: a damaged signature, a changed file or a stranger beside the signed files."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from dinodeploy.bundle.manifest import SIGNATURE_FILE
from dinodeploy.bundle.signing import SignedCopy, sign
from tests.dinodeploy.bundle.test_signing import make_key
from tests.fuzz.attack import Attack, Violation
from tests.fuzz.bundles import write_bundle
from tests.fuzz.mutations import mutate_bytes, mutate_json, to_text

NAMES = (".git", ".evil", "evil.so", "model.onnx ", "MODEL.onnx", "a\nb", "\udcff", "model.sig.bak", "é")


def signature(folder: Path) -> Attack:
    """Whatever happens to the folder, what is opened is what was signed: or nothing is."""
    tempfile.tempdir = str(folder)
    root = folder / "bundle"
    write_bundle(root)
    private, public = make_key(folder, "key")
    other, _ = make_key(folder, "other")
    sign(root, private)
    good = {path.name: path.read_bytes() for path in root.iterdir()}
    whole = json.loads(good[SIGNATURE_FILE])
    sign(root, other)
    foreign = (root / SIGNATURE_FILE).read_bytes()
    shutil.rmtree(root)

    def attack(rng: Random) -> None:
        files, strangers = dict(good), {}
        match rng.randrange(6):
            case 0:
                files[SIGNATURE_FILE] = mutate_bytes(good[SIGNATURE_FILE], rng)
            case 1:
                files[SIGNATURE_FILE] = to_text(whole, rng)
            case 2:
                files[SIGNATURE_FILE] = _with_payload(whole, rng)
            case 3:
                files[SIGNATURE_FILE] = _grafted(whole, json.loads(foreign), rng)
            case 4:
                name = rng.choice(sorted(good))
                files[name] = mutate_bytes(good[name], rng)
                if rng.random() < 0.3:
                    del files[name]
            case _:
                strangers[rng.choice(NAMES)] = rng.choice(("file", "folder", "link", "fifo"))
        _write(root, files, strangers)
        try:
            copied = SignedCopy(root, public)
            found = {path.name: path.read_bytes() for path in copied.root.iterdir()}
            signed = {name: data for name, data in good.items() if name != SIGNATURE_FILE}
            if strangers or {name: found.get(name) for name in signed} != signed or set(found) != set(good):
                raise Violation("something was opened that was not signed")
        finally:
            shutil.rmtree(root)

    return attack


def _with_payload(whole: Any, rng: Random) -> bytes:
    """The signed statement itself is changed, and its signature kept."""
    document = json.loads(json.dumps(whole))
    envelope = document["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    envelope["payload"] = base64.b64encode(json.dumps(mutate_json(statement, rng)).encode()).decode()
    return json.dumps(document).encode()


def _grafted(whole: Any, foreign: Any, rng: Random) -> bytes:
    """Parts of a signature by another key."""
    document = json.loads(json.dumps(whole))
    for key in rng.sample(sorted(document), rng.randrange(1, len(document) + 1)):
        document[key] = foreign[key]
    if rng.random() < 0.5:
        document["dsseEnvelope"]["signatures"] = foreign["dsseEnvelope"]["signatures"]
    return json.dumps(document).encode()


def _write(root: Path, files: dict[str, bytes], strangers: dict[str, str]) -> None:
    root.mkdir()
    for name, data in files.items():
        (root / name).write_bytes(data)
    for name, kind in strangers.items():
        if kind == "file":
            (root / name).write_bytes(b"x")
        elif kind == "folder":
            (root / name).mkdir()
        elif kind == "link":
            (root / name).symlink_to(root / "model.onnx")
        else:
            os.mkfifo(root / name)
