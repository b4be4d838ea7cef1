"""`dinodeploy ranges`: table, JSON, plot, and one line for every misuse."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from dinov3_ref.checkpoints import save_checkpoint
from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.overflowing_models import gentle, massive_product
from tests.support.processes.command_line import CommandLine, assert_refused


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("chelsea", "rocket", "coffee"):
        photograph(name).resize((200, 150)).save(folder / f"{name}.jpg")
    return folder


@pytest.fixture(scope="module")
def hard_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "hard.safetensors"
    save_checkpoint(massive_product(), "official", path)
    return path


def test_the_table_says_what_overflows(hard_file: Path, photos: Path, run: CommandLine) -> None:
    ran = run("ranges", hard_file, "--images", photos, "--imgsz", "64,96")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0].split()[:2] == ["block", "residual"]
    assert [line.split()[0] for line in lines[1:4]] == ["0", "1", "2"]
    assert "…" not in ran.out, "nothing is cut off at eighty columns"
    assert max(map(len, lines[:10])) <= 80
    verdicts = {line[:16].strip(): line[16:] for line in lines}
    assert verdicts["plain fp16 cast"].startswith("overflows first at blocks.0.mlp.fc2 output (")
    assert verdicts["fp16"].endswith("x to spare, scales blocks.0.mlp.fc2")
    assert verdicts["bf16"] == "safe: far from the limit"
    assert verdicts["plain int8"].startswith("starves at blocks.")
    assert "note: " in ran.err


def test_json_carries_everything(hard_file: Path, photos: Path, run: CommandLine) -> None:
    facts = run("ranges", hard_file, "--images", photos, "--imgsz", "64", "--limit", "2", "--json").json
    assert (facts["arch"], facts["imgsz"], facts["unreadable"]) == ("custom", [64, 64], [])
    assert facts["ranges"]["images"] == 2
    block = facts["ranges"]["blocks"][0]
    assert block["residual"]["channels_beyond"] == 2
    assert block["residual"]["tokens_beyond"].keys() == {"cls", "storage", "patch"}
    sites = {site["name"]: site["largest"] for site in block["sites"]}
    assert sites["blocks.0.mlp.fc2 output"] > 65_504
    assert {"smallest", "median", "largest"} == block["layer_scale"]["ls1"].keys()
    assert block["spreads"]["mlp hidden"]["ratio"] > 1
    verdicts = {prediction["recipe"]: prediction["safe"] for prediction in facts["predictions"]}
    assert verdicts == {
        "plain fp16 cast": False,
        "eager fp16 cast": False,
        "fp32": True,
        "fp16": True,
        "bf16": True,
        "bf16-residual": True,
        "int8": True,
        "fp8": True,
        "plain int8": False,
    }


def test_the_page_shows_what_it_prints(hard_file: Path, tmp_path: Path, run: CommandLine) -> None:
    """All photographs, default size; digits may differ in the last place from machine to machine."""
    page = (Path(__file__).parents[3] / "docs" / "precision.md").read_text(encoding="utf-8")
    match = re.search(r"ranges output: begin -->\n```text\n(.*?)```", page, re.DOTALL)
    assert match is not None
    for name in PHOTOGRAPHS:
        photograph(name).save(tmp_path / f"{name}.jpg")
    ran = run("ranges", hard_file, "--images", tmp_path)
    assert re.sub(r"\d", "#", ran.out).endswith(re.sub(r"\d", "#", match[1]))


@pytest.mark.parametrize(
    ("name", "option", "start"),
    [("r.svg", "--picture", b"<svg "), ("r.png", "--plot", b"\x89PNG"), ("r.html", "--plot", b"<!doctype")],
)
def test_a_plot_is_drawn(
    name: str, option: str, start: bytes, hard_file: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
    out = tmp_path / name
    ran = run("ranges", hard_file, "--images", photos, "--imgsz", "48", "--limit", "1", option, out)
    assert ran.code == 0, ran.err
    assert out.read_bytes().startswith(start)
    assert ran.out.splitlines()[-1] == f"plot: {out}"


def test_unreadable_pictures_are_skipped_and_end_in_5(tmp_path: Path, photos: Path, run: CommandLine) -> None:
    path = tmp_path / "gentle.safetensors"
    save_checkpoint(gentle(), "official", path)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    ran = run("ranges", path, "--images", photos, "--imgsz", "48", "--json")
    assert ran.code == 5
    assert ran.json["ranges"]["images"] == 3
    assert [Path(item["id"]).name for item in ran.json["unreadable"]] == ["broken.jpg"]
    assert "1 of 4 images could not be read" in ran.err
    assert "skipped: " in ran.err


def test_pictures_may_come_from_several_places(hard_file: Path, photos: Path, run: CommandLine) -> None:
    places = ("--images", photos / "chelsea.jpg", "--images", f"{photos}/[rc]o*.jpg")
    assert run("ranges", hard_file, *places, "--imgsz", "48", "--json").json["ranges"]["images"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("FILE",), "Missing option '--images'"),
        (("FILE", "--images", "EMPTY"), "no image under"),
        (("FILE", "--images", "nowhere"), "'nowhere' does not exist"),
        (("FILE", "--images", "BROKEN"), "none of 1 images can be read; the first: "),
        (("nothing.pth", "--images", "PHOTOS"), "nothing.pth"),
        (("FILE", "--images", "PHOTOS", "--imgsz", "100"), "multiple of the patch size 16"),
        (("FILE", "--images", "PHOTOS", "--limit", "0"), "--limit is 0; wanted at least 1"),
        (("FILE", "--images", "PHOTOS", "--arch", "vit_large"), "vit_large"),
        (("FILE", "--images", "PHOTOS", "--plot", "r.pdf"), "'.pdf'; wanted one of .svg, .png, .html"),
        (("FILE", "--images", "PHOTOS", "--plot", "no/r.svg"), "no/r.svg: cannot be written there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_misuse_is_one_line_and_2(
    arguments: tuple[str, ...],
    message: str,
    hard_file: Path,
    photos: Path,
    tmp_path: Path,
    run: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    before = sorted(tmp_path.rglob("*"))
    places = {"FILE": str(hard_file), "PHOTOS": str(photos), "EMPTY": "empty", "BROKEN": "broken.jpg"}
    ran = run("ranges", *(places.get(argument, argument) for argument in arguments))
    assert_refused(ran, message, tmp_path, before)


def test_without_the_export_extra_4(
    hard_file: Path, photos: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "exporters.ranges", None)
    ran = run("ranges", hard_file, "--images", photos)
    assert ran.code == 4
    assert "pip install 'dinodeploy[export]'" in ran.error
