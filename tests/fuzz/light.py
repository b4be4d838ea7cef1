"""Parsers that need no torch: bundles, archives, receipts, stores, tensors, pictures, tar archives.

A target is a function of a folder that makes good files there and returns the attack on their parser.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy import devices, schema
from dinodeploy.archive import pack, unpack
from dinodeploy.bundle import GOLDEN_FILE, MODEL_FILE, file_facts, open_bundle, sha256_file
from dinodeploy.devices import candidates, open_on
from dinodeploy.golden import GoldenCase, load_golden, save_golden
from dinodeploy.images import open_image
from dinodeploy.manifest import (
    FILE_NAME,
    BuildFacts,
    EngineFacts,
    GraphFacts,
    Manifest,
    ModelFacts,
    OutputFacts,
    ProfileFacts,
    canonical,
    read_manifest,
    write_manifest,
)
from dinodeploy.plan import Plan, read_plan
from dinodeploy.preprocess import Preprocess
from dinodeploy.receipts import Receipt, Receipts, find_receipt, read_receipts
from dinodeploy.shard_records import ShardRecord, WrittenFile, read_record, record_path
from dinodeploy.sources import SourceOptions, tars
from dinodeploy.sources.place import DiskPlace
from dinodeploy.store_target import clear_target, inspect_target
from dinodeploy.stored import load_embeddings
from dinodeploy.tensorfile import load_tensors, read_header, save_tensors
from tests.fuzz.attack import Attack, Violation
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_zip, to_text
from tests.photographs import photograph
from tests.stores import make_plan, write_store

HALF = (0.5, 0.5, 0.5)
HASH = "ab" * 32


def write_bundle(root: Path) -> Manifest:
    """A bundle of a few hundred bytes, with a plan; nothing in it can run."""
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
    """A bundle's manifest, half of the time with a digest that fits the damage."""
    whole = schema.dump(write_bundle(folder / "bundle"))
    path = folder / "bundle" / FILE_NAME

    def attack(rng: Random) -> None:
        if rng.random() < 0.5:
            path.write_bytes(to_text(whole, rng))
        else:
            path.write_bytes(_resealed(mutate_json(whole, rng)))
        bundle = open_bundle(folder / "bundle")
        bundle.manifest.facts()
        bundle.manifest.fingerprint(bundle.engine, bundle.manifest.preprocess)
        candidates(bundle, "auto")
        bundle.verify()

    return attack


def _resealed(document: Any) -> bytes:
    """A mutant whose digest is right, so that whatever comes after the digest is reached."""
    try:
        parsed = schema.parse(Manifest, document, "mutant")
        document = schema.dump(parsed.sealed())
        return canonical(document).encode()
    except Exception:  # it does not get as far as a digest, or has none: written as it is
        return json.dumps(document).encode()


def verified_first(folder: Path) -> Attack:
    """Whichever byte of an engine differs, no backend is handed the file."""
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
            open_on(open_bundle(folder / "bundle" / engine), "auto")
        finally:
            devices.open_backend = original
            (folder / "bundle" / name).write_bytes(good[name])

    return attack


def _must_not_open(*arguments: Any, **options: Any) -> Any:
    raise Violation("a backend was handed a file that is not the exported one")


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
    """parity.json: whatever is wrong with it, there is no receipt, and no error either."""
    write_bundle(folder / "bundle")
    bundle = open_bundle(folder / "bundle")
    files = bundle.manifest.files
    hashes = files[MODEL_FILE].sha256, files[GOLDEN_FILE].sha256
    receipt = Receipt(MODEL_FILE, *hashes, "onnxruntime 1", "cpu: x", "fp32", True, ())
    whole = schema.dump(Receipts(1, (receipt, receipt)))

    def attack(rng: Random) -> None:
        (folder / "bundle" / "parity.json").write_bytes(to_text(whole, rng))
        read_receipts(bundle)
        if find_receipt(bundle, "onnxruntime 1", "cpu: x") is not None:
            raise Violation("a receipt without measurements was believed")

    return attack


def plans(folder: Path) -> Attack:
    """The plan and the records of a store that is not complete."""
    plan = make_plan(["a", "b", "c"])
    record = ShardRecord(2, {"x.npy": WrittenFile(HASH, 10)}, {"cls": [3]}, [])
    record_path(folder, 0).parent.mkdir(parents=True)

    def attack(rng: Random) -> None:
        if rng.random() < 0.5:
            (folder / ".embed" / "plan.json").write_bytes(to_text(schema.dump(plan), rng))
            found = read_plan(folder)
            assert isinstance(found, Plan)
            found.differences(plan)
        else:
            record_path(folder, 0).write_bytes(to_text(schema.dump(record), rng))
            found_record = read_record(folder, 0)
            assert found_record is not None
            found_record.in_place(folder)

    return attack


def store(format: str) -> Callable[[Path], Attack]:
    """A store of one format: its root, or a shard under a hash that fits the damage."""

    def target(folder: Path) -> Attack:
        rows = [
            {"cls": np.ones(3, np.float32), "patch": np.ones((2, 3 + i, 4), np.float32)} for i in range(3)
        ]
        out = folder / "store"
        write_store(out, ["a.jpg", "b.jpg", "c.jpg"], rows, outputs=("cls", "patch"), format=format)
        root = json.loads((out / "embeddings.json").read_text())
        shards = [name for shard in root["shards"] for name in shard["files"]]
        good = {
            name: (out / name).read_bytes() for name in shards if "metadata_0" not in name or "jsonl" in name
        }

        def attack(rng: Random) -> None:
            output = rng.choice(("cls", "patch"))
            if rng.random() < 0.3:
                (out / "embeddings.json").write_bytes(to_text(root, rng))
                load_embeddings(out, output)
                return
            name = rng.choice(list(good))
            damage = mutate_zip if format == "npz" and rng.random() < 0.5 else mutate_bytes
            (out / name).write_bytes(damage(good[name], rng))
            document = json.loads(json.dumps(root))
            for shard in document["shards"]:
                if name in shard["files"]:
                    shard["files"][name] = sha256_file(out / name)
            (out / "embeddings.json").write_text(json.dumps(document))
            try:
                load_embeddings(out, output)
            finally:
                (out / name).write_bytes(good[name])

        return attack

    return target


def overwrite(folder: Path) -> Attack:
    """A finished store that another `embed` finds in its way, and may be told to remove."""
    rows = [{"cls": np.ones(3, np.float32)} for _ in range(3)]
    write_store(folder / "good", ["a.jpg", "b.jpg", "c.jpg"], rows)
    root = json.loads((folder / "good" / "embeddings.json").read_text())
    plan = make_plan(["a.jpg", "b.jpg", "c.jpg"])
    out = folder / "out"

    def attack(rng: Random) -> None:
        if not out.exists():
            shutil.copytree(folder / "good", out)
        (out / "embeddings.json").write_bytes(to_text(root, rng))
        asked = rng.random() < 0.5
        inspect_target(out, plan, overwrite=asked)
        if asked:
            (out / ".embed").mkdir(exist_ok=True)  # where the lock lies that comes first
            clear_target(out)
            shutil.rmtree(out, ignore_errors=True)
        if not (folder / "good" / "embeddings.json").is_file():
            raise Violation("a store beside it was removed")

    return attack


def tensors(folder: Path) -> Attack:
    """safetensors: bytes, or the header as JSON under a length that fits."""
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.arange(4), "c": np.array([True, False])}
    save_tensors(folder / "good.safetensors", arrays, {"note": "x"})
    good = (folder / "good.safetensors").read_bytes()

    def attack(rng: Random) -> None:
        path = folder / "bad.safetensors"
        path.write_bytes(_mutate_tensors(good, rng))
        read_header(path)
        load_tensors(path)

    return attack


def _mutate_tensors(good: bytes, rng: Random) -> bytes:
    if rng.random() < 0.4:
        return mutate_bytes(good, rng)
    length = int.from_bytes(good[:8], "little")
    text = to_text(json.loads(good[8 : 8 + length]), rng)
    return len(text).to_bytes(8, "little") + text + good[8 + length :]


def golden(folder: Path) -> Attack:
    """golden.safetensors."""
    image = np.zeros((8, 8, 3), np.uint8)
    case = GoldenCase(
        "a", (image, image), np.zeros((2, 3, 16, 16), np.float32), {"cls": np.ones((2, 3), np.float32)}
    )
    save_golden([case, replace(case, name="b")], folder / "good.safetensors")
    good = (folder / "good.safetensors").read_bytes()

    def attack(rng: Random) -> None:
        (folder / "bad.safetensors").write_bytes(_mutate_tensors(good, rng))
        for case in load_golden(folder / "bad.safetensors"):
            assert case.size

    return attack


def pictures(folder: Path) -> Attack:
    """Every format that we open, some with transparency, orientation and a profile."""
    small = photograph("chelsea").resize((24, 17))
    good: list[bytes] = []
    for name, mode in (
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("PPM", "L"),
        ("JPEG2000", "RGB"),
        ("AVIF", "RGB"),
    ):
        if name in Image.SAVE:
            buffer = io.BytesIO()
            image = small.convert("L").convert("I;16") if mode == "I;16" else small.convert(mode)
            image.save(buffer, name)
            good.append(buffer.getvalue())
    Image.init()

    def attack(rng: Random) -> None:
        data = mutate_bytes(rng.choice(good), rng)
        if rng.random() < 0.5:
            open_image(data, max_pixels=1 << 20)
        else:
            (folder / "picture").write_bytes(data)
            open_image(folder / "picture", max_pixels=1 << 20)

    return attack


def tar(folder: Path) -> Attack:
    """A tar archive of pictures; what is wrong in it is wrong with one picture."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("a.jpg", "b/c.png", "../evil.jpg", "x" * 150 + ".jpg"):
            member = tarfile.TarInfo(name)
            member.size = 600
            file.addfile(member, io.BytesIO(bytes(600)))
    good = buffer.getvalue()

    def attack(rng: Random) -> None:
        path = folder / "pictures.tar"
        path.write_bytes(mutate_bytes(good, rng))
        for source in tars.open_place(DiskPlace(str(path)), SourceOptions()):
            for index in range(len(source.ids)):
                source.picture(index)

    return attack


# name -> (target, mutants)
TARGETS: dict[str, tuple[Callable[[Path], Attack], int]] = {
    "manifest": (manifest, 2000),
    "verified_first": (verified_first, 500),
    "archive": (archive, 1000),
    "receipts": (receipts, 1500),
    "plans": (plans, 1500),
    "overwrite": (overwrite, 500),
    "npy": (store("npy"), 400),
    "npz": (store("npz"), 400),
    "safetensors": (store("safetensors"), 400),
    "parquet": (store("parquet"), 200),
    "tensors": (tensors, 2000),
    "golden": (golden, 800),
    "pictures": (pictures, 800),
    "tar": (tar, 500),
}
