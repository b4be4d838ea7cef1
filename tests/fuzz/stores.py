"""Attacks on embedding stores of every format, and on `--overwrite`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from dinodeploy.bundle.bundle import sha256_file
from dinodeploy.store.existing import clear_target, inspect_target
from dinodeploy.store.reader import load_embeddings
from tests.fuzz.attack import Attack, Violation
from tests.fuzz.mutations import mutate_bytes, mutate_zip, to_text
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
            damage = mutate_zip if format == "npz" and rng.random() < 0.5 else mutate_bytes
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
