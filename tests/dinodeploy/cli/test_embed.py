"""`dinodeploy embed` from the outside: going on, parts, dtypes, shapes, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import load_embeddings
from tests.support.fake_engine import tree
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine
from tests.support.processes.kill_runner import ROOT

NAMES = ("chelsea", "rocket", "coffee", "astronaut", "china")
PAIRS = (("chelsea", "china"), ("rocket", "coffee"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in NAMES:
        photograph(name).resize((120, 90)).save(folder / f"{name}.jpg")
    return folder


def test_the_same_command_again_says_that_all_is_done(
    tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    command = ("embed", photos, "--engine", tiny_bundle, "--out", tmp_path / "o", "--imgsz", "32,48")
    first = run(*command)
    assert first.code == 5
    assert "o: 5 images embedded, " in first.out
    assert "waited for decode " in first.out
    before = tree(tmp_path / "o")
    again = run(*command)
    assert again.code == 0, "nothing new failed"
    assert run(*command, "--strict").code == 5, "what is quarantined stays so"
    assert "o: complete already, 5 images embedded; nothing to do" in again.out
    assert "1 of 6 images quarantined; reasons in" in again.err
    assert tree(tmp_path / "o") == before
    as_json = run(*command, "--json").json
    assert (as_json["complete"], as_json["embedded"], as_json["quarantined"]) == (True, 5, 1)
    assert (as_json["kept"], as_json["images_per_second"]) == (6, 0)


def test_many_images_have_a_core_each(
    tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    """From four a core on; the store is the same, byte for byte."""
    for copy in range(2):
        for name in NAMES:
            (photos / f"{name}_{copy}.jpg").write_bytes((photos / f"{name}.jpg").read_bytes())
    command = ("embed", photos, "--engine", tiny_bundle, "--device", "onnxruntime", "--imgsz", "64,96")
    said = {}
    for threads in (1, 3, 4):
        made = run(*command, "--batch", "2", "--threads", str(threads), "--out", tmp_path / f"o{threads}")
        said[threads] = "3 batches in parallel" in made.err
        assert made.code == 0
        assert tree(tmp_path / f"o{threads}") == tree(tmp_path / "o1")
    assert said == {1: False, 3: True, 4: False}


def test_other_images_under_the_same_ids_are_refused(
    tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    """A store must not mix what two columns name."""
    rows = ["key,path,other"] + [f"k{i},photos/{a}.jpg,photos/{b}.jpg" for i, (a, b) in enumerate(PAIRS)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    command = ("embed", tmp_path / "t.csv", "--engine", tiny_bundle, "--out", tmp_path / "o", "--imgsz", "32")
    by_key = (*command, "--id-column", "key")
    assert run(*by_key).code == 0
    before = tree(tmp_path / "o")
    refused = run(*by_key, "--column", "other")
    assert refused.code == 2
    assert f"o: {len(PAIRS)} changed images since it was made; pass --update to follow them" in refused.error
    assert tree(tmp_path / "o") == before
    again = run(*by_key, "--column", "path")
    assert again.code == 0, "the same column, said or not"
    assert "complete already" in again.out


def test_a_killed_command_resumes(tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine) -> None:
    """The real one, in a process of its own."""
    for copy in range(40):
        for name in NAMES[:2]:
            (photos / f"{name}-{copy}.jpg").symlink_to(photos / f"{name}.jpg")
    options = ["--engine", str(tiny_bundle), "--imgsz", "64", "--shard-size", "6", "--json"]
    command = ["embed", str(photos), "--out", str(tmp_path / "o"), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "dinodeploy.cli.app", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "o").glob(".embed/shards/*.json"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ran = run(*command)
    assert ran.code == 0, ran.err
    assert ran.json["embedded"] == 85
    assert ran.json["kept"] >= 12
    assert f"[resume] {ran.json['kept']} images are embedded already" in ran.err
    assert run("embed", photos, "--out", tmp_path / "undisturbed", *options).code == 0
    assert tree(tmp_path / "o") == tree(tmp_path / "undisturbed")


def test_parts_make_one_store(tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine) -> None:
    (photos / "broken.jpg").write_bytes(b"")
    options = ("--engine", tiny_bundle, "--imgsz", "32", "--shard-size", "2")
    first = run("embed", photos, "--out", tmp_path / "o", *options, "--shards", "2/2")
    assert first.code == 0, first.err
    assert "this part is done; the last part to finish writes embeddings.json" in first.out
    incomplete = run("embed", photos, "--out", tmp_path / "o", *options, "--shards", "2/2", "--json").json
    assert (incomplete["complete"], incomplete["embedded"], incomplete["kept"]) == (False, 2, 2)
    last = run("embed", photos, "--out", tmp_path / "o", *options, "--shards", "1/2", "--json")
    assert (last.code, last.json["complete"], last.json["embedded"]) == (5, True, 5)
    run("embed", photos, "--out", tmp_path / "alone", *options)
    assert tree(tmp_path / "o") == tree(tmp_path / "alone")


def test_images_keep_their_shape(tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    (tmp_path / "in").mkdir()
    for index, size in enumerate([(120, 90), (90, 120), (400, 50), (90, 90)]):
        photograph("coffee").resize(size).save(tmp_path / "in" / f"{index}.png")
    command = ("embed", tmp_path / "in", "--engine", tiny_bundle, "--imgsz", "48", "--keep-aspect")
    assert run(*command, "--outputs", "cls,patch", "--out", tmp_path / "a").code == 0
    grids = load_embeddings(tmp_path / "a", "patch")[1]
    assert [grid.shape[:2] for grid in grids] == [(3, 4), (4, 3), (3, 24), (3, 3)]
    few = run(*command, "--outputs", "patch", "--max-patches", "12", "--out", tmp_path / "b")
    assert few.code == 0, few.err
    shapes = [grid.shape[:2] for grid in load_embeddings(tmp_path / "b", "patch")[1]]
    assert shapes == [(3, 4), (4, 3), (1, 9), (3, 3)]
    steps = json.loads((tmp_path / "b" / "embeddings.json").read_text())["fingerprint"]["preprocess"]
    assert (steps["preset"], steps["max_patches"]) == ("keep-aspect", 12)


def test_dtypes_and_pooled(tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine) -> None:
    command = (
        "embed",
        photos,
        "--engine",
        tiny_bundle,
        "--imgsz",
        "32",
        "--outputs",
        "cls,mean_patch,pooled",
    )
    exact = {}
    for dtype, limit in (("fp32", 0), ("fp16", 2e-3), ("int8", 3e-2)):
        assert run(*command, "--out", tmp_path / dtype, "--dtype", dtype).code == 0
        ids, pooled = load_embeddings(tmp_path / dtype, "pooled")
        assert len(ids) == 5
        assert isinstance(pooled, np.ndarray)
        assert (pooled.shape, pooled.dtype) == ((5, 256), np.float32)
        exact.setdefault("pooled", pooled)
        assert np.abs(pooled - exact["pooled"]).max() <= limit * np.abs(exact["pooled"]).max()
    parts = [load_embeddings(tmp_path / "fp32", output)[1] for output in ("cls", "mean_patch")]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), exact["pooled"])  # type: ignore[arg-type]


def test_bad_files_of_a_folder(tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine) -> None:
    """A folder named x.jpg is a folder; what else bears an image's name is listed, and never waited for."""
    (photos / "folder.jpg").mkdir()
    photograph("flower").save(photos / "folder.jpg" / "inside.jpg")
    (photos / "broken-link.jpg").symlink_to("nowhere")
    os.mkfifo(photos / "fifo.jpg")
    ran = run("embed", photos, "--engine", tiny_bundle, "--imgsz", "32", "--out", tmp_path / "o", "--json")
    assert (ran.code, ran.json["embedded"], ran.json["quarantined"]) == (5, 6, 2)


def test_what_is_quarantined_now_is_in_the_report_of_a_part(
    tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    (photos / "astronaut.jpg").write_bytes(b"")
    options = ("--engine", tiny_bundle, "--imgsz", "32", "--shard-size", "2", "--shards", "1/2")
    ran = run("embed", photos, "--out", tmp_path / "o", *options)
    assert ran.code == 5
    assert "1 of 3 images quarantined; reasons in quarantine.jsonl, once all parts are done" in ran.err


def test_the_pixel_limit_is_an_option_that_no_store_records(
    tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    """It accepts or refuses; what an image looks like does not depend on it."""
    photograph("astronaut").save(tmp_path / "large.jpg")  # 512 x 512
    command = ("embed", tmp_path / "large.jpg", "--engine", tiny_bundle, "--imgsz", 32)
    assert run(*command, "--out", tmp_path / "all").code == 0
    refused = run(*command, "--out", tmp_path / "none", "--max-pixels", 262_143)
    assert refused.code == 5
    quarantined = (tmp_path / "none" / "quarantine.jsonl").read_text()
    assert "wanted at most 262143; shrink it first or raise --max-pixels" in quarantined
    assert run(*command, "--out", tmp_path / "all", "--max-pixels", 262_144).code == 0  # the same store
    wrong = run(*command, "--out", tmp_path / "zero", "--max-pixels", 0)
    assert (wrong.code, "max pixels is 0; wanted a whole number, at least 1" in wrong.error) == (2, True)


def test_fast_jpeg_is_written_down(tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    """Sizes are still those of the images, and a store made without it is another one."""
    photograph("astronaut").save(tmp_path / "large.jpg")
    command = ("embed", tmp_path / "large.jpg", "--engine", tiny_bundle, "--imgsz", 32)
    assert run(*command, "--out", tmp_path / "fast", "--fast-jpeg").code == 0
    assert run(*command, "--out", tmp_path / "whole").code == 0
    fast, whole = (
        json.loads((tmp_path / name / "embeddings.json").read_text()) for name in ("fast", "whole")
    )
    assert fast["fingerprint"]["preprocess"]["jpeg"] == "reduced"
    assert "jpeg" not in whole["fingerprint"]["preprocess"]
    vectors = [load_embeddings(tmp_path / name)[1] for name in ("fast", "whole")]
    assert 0 < np.abs(vectors[0] - vectors[1]).max() < 0.1  # type: ignore[operator]
    refused = run(*command, "--out", tmp_path / "whole", "--fast-jpeg")
    assert refused.code == 2
    assert "preprocess.jpeg" in refused.error
