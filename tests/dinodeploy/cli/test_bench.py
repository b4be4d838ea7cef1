"""`dinodeploy bench`: the record, the plot, and one line for every misuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.processes.command_line import CommandLine


@pytest.mark.slow
def test_the_command(tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    arguments = ("--batch", 2, "--imgsz", "32x48", "--rounds", 1, "--threads", 1, "--outputs", "cls")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
    paths = ("--out", tmp_path / "r.json", "--plot", tmp_path / "r.svg")
    ran = run("bench", tiny_bundle, *arguments, *paths)
    assert ran.code == 0, ran.err
    assert "2x32x48" in ran.out
    assert "written:" in ran.out
    assert "…" not in ran.out
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["outputs"] == ["cls"]
    assert (tmp_path / "r.svg").read_text().startswith("<svg")


def test_the_bundles_own_size_is_measured(tmp_path: Path, run: CommandLine) -> None:
    data = Path(__file__).parents[2] / "data" / "format1_bundle"  # of 48x64
    format1 = shutil.copytree(data, tmp_path / "bundle")  # a judgement adds a receipt
    ran = run("bench", format1, "--batch", "1,2", "--rounds", 1, "--threads", 1, "--json")
    assert ran.code == 0, ran.err
    shapes = [(row["batch"], row["height"], row["width"]) for row in ran.json["rows"]]
    assert shapes == [(1, 48, 64), (2, 48, 64)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vs", "jax"), "'jax' does not fit; wanted distinct names of torch, compile"),
        (("--batch", "0"), "--batch 0; wanted at least 1"),
        (("--batch", "many"), "--batch: 'many' is not a number"),
        (("--imgsz", "100"), "multiple of the patch size 16"),
        (("--imgsz", "big"), "--imgsz 'big'"),
        (("--rounds", "0"), "--rounds is 0"),
        (("--threads", "-1"), "--threads is -1"),
        (("--outputs", "logits"), "'logits' does not fit"),
        (("--out", "r.txt"), "wanted a file that ends in .json"),
        (("--plot", "r.bmp"), "wanted one of .svg"),
        (("--vs", "torch"), "peers in torch need the checkpoint of the bundle"),
        (("--vs", "torch", "--checkpoint", "nothing.pth"), "nothing.pth does not exist"),
        (("--device", "gpu"), "--device 'gpu' is unknown"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...], message: str, tiny_bundle: Path, run: CommandLine
) -> None:
    ran = run("bench", tiny_bundle, *arguments)
    assert ran.code == 2
    assert message in ran.error
    assert ran.out == ""
