"""`dinodeploy bench` from end to end on a tiny bundle: a record, a plot, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinodeploy.bench import BenchOptions
from dinodeploy.bench.ledger import record_name
from dinodeploy.bench.probe import probe_start
from dinodeploy.bench.runners import ENGINE, PEERS, RunnerOptions
from dinodeploy.bench.table import share
from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.plots import draw_bench, inline_svg
from tests.support.command_line import CommandLine


@pytest.fixture(scope="module")
def record(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    from dinodeploy.bench import run_bench

    options = BenchOptions(vs=("onnxruntime",), shapes=((1, 32, 48), (3, 32, 48)), rounds=2, threads=1)
    return run_bench(str(tiny_bundle), options)


def test_a_record_has_everything(record: dict) -> None:
    assert [(row["runner"], row["batch"]) for row in record["rows"]] == [
        (name, batch) for batch in (1, 3) for name in (ENGINE, "onnxruntime")
    ]
    for row in record["rows"]:
        assert (row["height"], row["width"]) == (32, 48)
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch"] / row["median_ms"])
        assert 0 < row["share_of_fp32_peak"] < 2
    assert record["rows"][0]["ratio"] == 1.0
    for facts in record["runners"].values():
        assert facts["runtime"].startswith("onnxruntime ")
        assert facts["relative_frobenius_cls"] < 1e-5
        assert facts["smallest_cosine_cls"] > 0.999999
        assert 0.1 < facts["seconds"] < 60
        assert facts["peak_mib"] is None or 20 < facts["peak_mib"] < 1000
    assert (record["arch"], record["recipe"], record["threads"]) == ("custom", "fp32", 1)
    json.dumps(record, allow_nan=False)


def test_a_share_that_is_not_known_is_left_out(record: dict) -> None:
    assert share(record["rows"][0]).endswith("%")
    assert share({"share_of_fp32_peak": None}) == ""


def test_the_plot_names_every_runner(record: dict) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
    svg = inline_svg(draw_bench(record))
    for words in ("batch 1, 32x48", "batch 3, 32x48", ">engine<", ">onnxruntime<", "1.00x", "error "):
        assert words in svg


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


def test_a_runner_that_dies_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"engine does not start in its own process: .*no such bundle"):
        probe_start(ENGINE, RunnerOptions(str(tmp_path / "none"), 1), (1, 32, 32))


def test_options_are_checked_when_created() -> None:
    with pytest.raises(MisuseError, match=f"'jax' is unknown; wanted some of {', '.join(PEERS)}"):
        BenchOptions(vs=("jax",))


def test_a_record_is_named_for_its_machine() -> None:
    name = record_name("cpu", "vit_small", "fp32")
    assert name.startswith("cpu_vit_small_fp32_")
    assert name == name.lower()
    assert name.endswith(".json")
