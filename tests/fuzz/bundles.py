"""Attacks on the files of a bundle and of an unfinished store: manifest, archive, receipts, plans."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from dinodeploy.backends import select as devices
from dinodeploy.backends.select import candidates, open_on
from dinodeploy.bundle.archive import pack, unpack
from dinodeploy.bundle.bundle import GOLDEN_FILE, file_facts, locate, open_bundle
from dinodeploy.bundle.manifest import (
    FILE_NAME,
    MODEL_FILE,
    BuildFacts,
    EngineFacts,
    FileFacts,
    GraphFacts,
    Manifest,
    ModelFacts,
    OutputFacts,
    ProfileFacts,
    canonical,
    read_manifest,
    write_manifest,
)
from dinodeploy.files import schema
from dinodeploy.files.tensors import save_tensors
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.receipts import Receipt, Receipts, find_receipt, read_receipts
from dinodeploy.store.plan import Plan, read_plan
from dinodeploy.store.shard import ShardRecord, finished_record, record_path
from tests.fuzz.attack import Attack, Violation
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_zip, to_text
from tests.support.stores import make_plan

HALF = (0.5, 0.5, 0.5)
HASH = "ab" * 32


def write_bundle(root: Path) -> Manifest:
    """A bundle of a few hundred bytes with a plan; its engines cannot run."""
    root.mkdir()
    (root / MODEL_FILE).write_bytes(b"graph" * 20)
    (root / "model.plan").write_bytes(b"plan" * 20)
    save_tensors(root / GOLDEN_FILE, {"x": np.zeros(3, np.float32)})
    files = {path.name: file_facts(path) for path in root.iterdir()}
    profile = ProfileFacts((1, 32, 32), (2, 64, 64), (4, 96, 96))
    source = files[MODEL_FILE].sha256
    build = BuildFacts(
        "tensorrt 10.3.0",
        MODEL_FILE,
        source,
        (profile,),
        ("8.9",),
        "570.1",
        False,
        "none",
        False,
        False,
        False,
        3,
    )
    manifest = Manifest(
        format=1,
        created_by="a test",
        model=ModelFacts("vit_small", 384, 12, 6, 16, 4, "random", "x", HASH, "official", None, "bf16"),
        preprocess=Preprocess("official", 224, 224, HALF, HALF),
        outputs=(OutputFacts("cls", ("batch", 384)),),
        graph=GraphFacts("fp32", "portable", 18, (), ()),
        engines={
            MODEL_FILE: EngineFacts("onnxruntime", (MODEL_FILE,)),
            "model.plan": EngineFacts("tensorrt", ("model.plan",), build),
        },
        files=files,
        licence="none",
    )
    write_manifest(manifest, root)
    return read_manifest(root)


def manifest(folder: Path) -> Attack:
    """The manifest, in half of the cases with a correct digest of the damaged content."""
    whole = schema.dump(write_bundle(folder / "bundle"))
    path = folder / "bundle" / FILE_NAME

    def attack(rng: Random) -> None:
        if rng.random() < 0.5:
            path.write_bytes(to_text(whole, rng))
        else:
            path.write_bytes(_resealed(mutate_json(whole, rng)))
        bundle = open_bundle(folder / "bundle")
        bundle.manifest.facts()
        bundle.choose().fingerprint(bundle.manifest.preprocess)
        candidates(bundle, "auto")
        bundle.verify()

    return attack


def _resealed(document: Any) -> bytes:
    """The mutant with a correct digest, so that later checks are reached."""
    try:
        parsed = schema.parse(Manifest, document, "mutant")
        document = schema.dump(parsed.sealed())
        return canonical(document).encode()
    except Exception:  # too damaged for a digest: unchanged
        return json.dumps(document).encode()


def verified_first(folder: Path) -> Attack:
    """If any byte of an engine file differs, no backend may open it."""
    write_bundle(folder / "bundle")
    good = {name: (folder / "bundle" / name).read_bytes() for name in (MODEL_FILE, "model.plan", GOLDEN_FILE)}

    def attack(rng: Random) -> None:
        name = rng.choice(list(good))
        mutant = mutate_bytes(good[name], rng)
        if mutant == good[name]:
            return
        (folder / "bundle" / name).write_bytes(mutant)
        engine = "model.plan" if name == "model.plan" else MODEL_FILE
        original = devices.open_backend
        devices.open_backend = _must_not_open
        try:
            bundle, named = locate(folder / "bundle" / engine)
            open_on(bundle, "auto", file=named)
        finally:
            devices.open_backend = original
            (folder / "bundle" / name).write_bytes(good[name])

    return attack


def _must_not_open(*arguments: Any, **options: Any) -> Any:
    raise Violation("a backend opened a file that differs from the exported one")


def archive(folder: Path) -> Attack:
    """A packed bundle."""
    write_bundle(folder / "bundle")
    good = pack(folder / "bundle", folder / "good.zip").read_bytes()

    def attack(rng: Random) -> None:
        (folder / "bad.zip").write_bytes(mutate_zip(good, rng))
        try:
            unpack(folder / "bad.zip", folder / "out")
        except Exception:
            if (folder / "out").exists():
                raise Violation("a refused archive left its directory") from None
            raise
        open_bundle(folder / "out").verify()
        shutil.rmtree(folder / "out")

    return attack


def receipts(folder: Path) -> Attack:
    """parity.json: a damaged one counts as no receipt and is no error."""
    write_bundle(folder / "bundle")
    bundle = open_bundle(folder / "bundle")
    files = bundle.manifest.files
    hashes = files[MODEL_FILE].sha256, files[GOLDEN_FILE].sha256
    receipt = Receipt(MODEL_FILE, *hashes, "onnxruntime 1", "cpu: x", "fp32", True, ())
    whole = schema.dump(Receipts(1, (receipt, receipt)))

    def attack(rng: Random) -> None:
        (folder / "bundle" / "parity.json").write_bytes(to_text(whole, rng))
        read_receipts(bundle)
        if find_receipt(bundle.choose(), "onnxruntime 1", "cpu: x") is not None:
            raise Violation("a receipt without measurements was accepted")

    return attack


def plans(folder: Path) -> Attack:
    """The plan and the shard records of an unfinished store."""
    plan = make_plan(["a", "b", "c"])
    record = ShardRecord(2, {"x.npy": FileFacts(HASH, 10)}, {"cls": [3]}, [])
    record_path(folder, 0).parent.mkdir(parents=True)

    def attack(rng: Random) -> None:
        if rng.random() < 0.5:
            (folder / ".embed" / "plan.json").write_bytes(to_text(schema.dump(plan), rng))
            found = read_plan(folder)
            assert isinstance(found, Plan)
            found.differences(plan)
        else:
            record_path(folder, 0).write_bytes(to_text(schema.dump(record), rng))
            finished_record(folder, 0)

    return attack
