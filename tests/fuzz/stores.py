"""Attacks on embedding stores of every format, and on `--overwrite`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from dinodeploy.bundle.bundle import sha256_file
from dinodeploy.store.existing import clear_target, inspect_target
from dinodeploy.store.listing import Listing, read_listing, write_listing
from dinodeploy.store.manifest import read_manifest_file
from dinodeploy.store.reader import load_embeddings
from dinodeploy.store.update import Follow
from tests.fuzz.attack import Attack, Violation
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_zip, to_text
from tests.support.fake_engine import embedder, engine
from tests.support.followed import Versions, follow
from tests.support.stores import make_plan, write_store


def store(format: str) -> Callable[[Path], Attack]:
    """A store of one format: a damaged root, or a damaged shard with its correct hash."""

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
            damage = mutate_zip if name.endswith(".npz") and rng.random() < 0.5 else mutate_bytes
            (out / name).write_bytes(damage(good[name], rng))
            document = json.loads(json.dumps(root))
            for shard in document["shards"]:
                if name in shard["files"]:
                    shard["files"][name]["sha256"] = sha256_file(out / name)
            (out / "embeddings.json").write_text(json.dumps(document))
            try:
                load_embeddings(out, output)
            finally:
                (out / name).write_bytes(good[name])

        return attack

    return target


def records(folder: Path) -> Attack:
    """A store that an interrupted update left: a damaged plan, record, base, old manifest or listing."""
    start = {f"{number}.png": 1 for number in range(6)}
    out, good, precious = folder / "out", folder / "good", folder / "precious"
    for name in ("1.npy", "img_emb/img_emb_00000.npy"):
        (precious / name).parent.mkdir(parents=True, exist_ok=True)
        (precious / name).write_bytes(b"mine")
    follow(good, Versions(start), shard_size=2)
    with suppress(RuntimeError):
        follow(good, Versions(dict.fromkeys(start, 2)), engine=embedder(_breaks_after(2)), shard_size=2)
    (good / ".embed/old-1.json").write_bytes((good / "embeddings.json").read_bytes())
    (good / ".embed/base.json").write_bytes((good / "embeddings.json").read_bytes())
    documents = sorted(good.rglob("*.json"))
    listings = sorted((good / "listing").iterdir())

    def attack(rng: Random) -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(good, out, copy_function=shutil.copy2)
        for path in rng.sample([*documents, *listings], rng.choice((1, 1, 2))):
            content = path.read_bytes()
            damaged = mutate_bytes(content, rng)
            if path.suffix == ".json" and rng.random() < 0.8:
                document = mutate_json(json.loads(content), rng)
                if rng.random() < 0.3 and isinstance(document, dict):
                    name = rng.choice(
                        (str(precious / "1.npy"), "../precious/1.npy", "link/img_emb_00000.npy")
                    )
                    document["files"] = {name: {"sha256": "0" * 64, "bytes": 4}}
                damaged = json.dumps(document).encode()
            (out / path.relative_to(good)).write_bytes(damaged)
        (out / "link").symlink_to(precious / "img_emb")
        try:
            options = Follow(update=rng.random() < 0.8)
            follow(out, Versions(dict.fromkeys(start, 2)), shard_size=2, options=options)
            load_embeddings(out)
        finally:
            if sum(path.read_bytes() == b"mine" for path in precious.rglob("*.npy")) != 2:
                raise Violation("a file beside the store was removed or replaced")

    return attack


def listing(folder: Path) -> Attack:
    """A damaged listing of a shard, or a damaged record of one."""
    stamps = np.arange(9, dtype=np.int64).reshape(3, 3)
    ids = ["a.jpg", "b.jpg", "c.jpg"]
    write_listing(folder / "good", Listing(ids, stamps, np.zeros(3, np.uint8), {1: "bad"}))
    good = (folder / "good").read_bytes()
    write_store(folder / "store", ids, [{"cls": np.ones(3, np.float32)}] * 3)
    manifest = json.loads((folder / "store/embeddings.json").read_text())

    def attack(rng: Random) -> None:
        if rng.random() < 0.4:
            (folder / "bad").write_bytes(mutate_bytes(good, rng))
            read_listing(folder / "bad")
            return
        (folder / "bad.json").write_bytes(to_text(manifest, rng))
        read_manifest_file(folder / "bad.json")

    return attack


def _breaks_after(batches: int) -> Callable[[Any], dict[str, Any]]:
    """An engine that breaks after so many batches."""
    left = iter(range(batches))

    def run(pixels: Any) -> dict[str, Any]:
        if next(left, None) is None:
            raise RuntimeError("the engine broke")
        return engine(pixels)

    return run


def overwrite(folder: Path) -> Attack:
    """A finished store that another `embed` finds at its target and may overwrite."""
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
            (out / ".embed").mkdir(exist_ok=True)  # the folder of the lock, which is taken first
            clear_target(out)
            shutil.rmtree(out, ignore_errors=True)
        if not (folder / "good" / "embeddings.json").is_file():
            raise Violation("a store beside it was removed")

    return attack
