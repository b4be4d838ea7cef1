"""`dinodeploy check` with everything that can be asked of it: bisect, against, reports, and exit codes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dinodeploy.parity.golden import load_golden, save_golden
from tests.support.faults import FAULTS, plant, reseal
from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.processes.command_line import CommandLine
from tests.support.tiny_models import export_tiny


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTOGRAPHS:
        photograph(name).resize((96, 64)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("other") / "b", seed=1).root


@pytest.fixture
def broken(own_bundle: Path) -> Path:
    plant(
        own_bundle / "model.cpu.onnx",
        FAULTS["a LayerNorm's gain changed"],
        "blocks.2",
        np.random.default_rng(0),
    )
    reseal(own_bundle)
    return own_bundle


def test_bisect_of_a_right_engine(tiny_bundle: Path, run: CommandLine) -> None:
    ran = run("check", tiny_bundle, "--bisect")
    assert ran.code == 0
    assert "bisect: no place departs" in ran.out
    assert "blocks.2  " in ran.out
    assert "…" not in ran.out, "nothing is cut off at eighty columns"


def test_bisect_names_the_block_and_ends_in_1(broken: Path, run: CommandLine) -> None:
    ran = run("check", broken, "--bisect", "--threads", "1")
    assert ran.code == 1
    assert ran.out.splitlines()[-1].startswith("bisect: first departs at blocks.2 (step ")
    data = run("check", broken, "--bisect", "--json").json
    assert (data["passed"], data["bisect"]["departs"]) == (False, "blocks.2")
    steps = {place["name"]: place["step"] for place in data["bisect"]["places"]}
    assert steps["blocks.2"] > 1000 * steps["blocks.1"]
    assert data["bisect"]["places"][2]["groups"].keys() == {"cls", "storage", "patch"}


def test_json_has_only_what_was_asked_for(tiny_bundle: Path, run: CommandLine) -> None:
    data = run("check", tiny_bundle, "--json").json
    assert data["passed"] is True
    assert not {"bisect", "against"} & data.keys()


def test_bisect_without_onnx_is_4(
    tiny_bundle: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("exporters.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "onnx", None)
    ran = run("check", tiny_bundle, "--bisect")
    assert ran.code == 4
    assert ran.error.endswith("--bisect needs onnx, which is not installed: pip install 'dinodeploy[export]'")


def test_bisect_needs_no_torch(tiny_bundle: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("exporters.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("check", tiny_bundle, "--bisect").code == 0


def test_bisect_of_an_older_bundle_is_2(own_bundle: Path, run: CommandLine) -> None:
    golden = own_bundle / "golden.safetensors"
    cases = load_golden(golden)
    save_golden([type(case)(case.name, case.images, case.pixels, case.outputs) for case in cases], golden)
    reseal(own_bundle)
    assert run("check", own_bundle).code == 0
    ran = run("check", own_bundle, "--bisect")
    assert ran.code == 2
    assert "export the bundle again" in ran.error


def test_against_itself_and_another(
    tiny_bundle: Path, other_weights: Path, photos: Path, run: CommandLine
) -> None:
    same = run("check", tiny_bundle, "--against", tiny_bundle, "--images", photos, "-k", "3")
    assert same.code == 0
    assert same.out.splitlines()[-1].startswith("reindex: no (10 images for 3 neighbours")
    other = run("check", tiny_bundle, "--against", other_weights, "--images", photos, "-k", "3", "--json")
    assert (other.code, other.json["passed"]) == (1, True), "the engine is right, the index cannot stay"
    assert other.json["against"]["verdict"] == "reindex: yes"
    assert other.json["against"]["k"] == 3


def test_a_broken_engine_is_compared_with_nothing(
    broken: Path, tiny_bundle: Path, photos: Path, run: CommandLine
) -> None:
    ran = run("check", broken, "--against", tiny_bundle, "--images", photos, "--json")
    assert ran.code == 1
    assert "against" not in ran.json
    assert "not compared" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--against", "BUNDLE"), "--against and --images belong together"),
        (("--images", "PHOTOS"), "--against and --images belong together"),
        (("--against", "BUNDLE", "--images", "PHOTOS"), "10 readable images for 10 neighbours"),
        (("--against", "BUNDLE", "--images", "PHOTOS", "-k", "0"), "-k is 0"),
        (("--against", "nothing", "--images", "PHOTOS", "-k", "3"), "nothing: no such bundle"),
        (("--against", "BUNDLE", "--images", "nothing"), "'nothing' does not exist"),
        (("--report", "report.txt"), "wanted a file that ends in .json, .xml, .html"),
        (("--report", "no/where.html"), "there is no folder no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_misuse_is_2(
    arguments: tuple[str, ...], message: str, tiny_bundle: Path, photos: Path, run: CommandLine
) -> None:
    places = {"BUNDLE": str(tiny_bundle), "PHOTOS": str(photos)}
    ran = run("check", tiny_bundle, *(places.get(argument, argument) for argument in arguments))
    assert ran.code == 2
    assert message in ran.error
    assert ran.out == ""


def test_reports_are_written_whatever_the_verdict(
    tiny_bundle: Path, broken: Path, tmp_path: Path, run: CommandLine
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
    for bundle, code in ((tiny_bundle, 0), (broken, 1)):
        out = tmp_path / str(code)
        out.mkdir()
        targets = [option for name in ("r.json", "r.xml", "r.html") for option in ("--report", out / name)]
        ran = run("check", bundle, "--bisect", "--json", *targets)
        assert ran.code == code
        assert json.loads((out / "r.json").read_text()) == ran.json
        suite = ElementTree.parse(out / "r.xml").getroot()[0]
        assert (suite.get("failures") == "0") == (code == 0)
        assert ("✓ Passed" in (out / "r.html").read_text()) == (code == 0)
        assert sorted(path.name for path in out.iterdir()) == ["r.html", "r.json", "r.xml"]


def test_bisecting_writes_nothing(
    tiny_bundle: Path, tmp_path: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even for a moment: the bundle may lie on a read-only file system."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    before = {path.name: path.stat().st_mtime_ns for path in root.iterdir() if path.name != "parity.json"}
    assert run("check", root, "--bisect").code == 0
    after = {path.name: path.stat().st_mtime_ns for path in root.iterdir() if path.name != "parity.json"}
    assert after == before
