"""A complete benchmark on a tiny bundle: what is in the record, and what its table and plot show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinodeploy.bench import BenchOptions
from dinodeploy.bench.record import compare, take_turns
from dinodeploy.bench.runners import ENGINE, PEERS
from dinodeploy.bench.table import share
from dinodeploy.errors import MisuseError
from dinodeploy.plots import draw_bench, inline_svg


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


def test_options_are_checked_when_created() -> None:
    with pytest.raises(MisuseError, match=f"'jax' is unknown; wanted some of {', '.join(PEERS)}"):
        BenchOptions(vs=("jax",))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_turns_are_taken_and_the_first_run_warms_up() -> None:
    clock, order = Clock(), []

    def runs(name: str, costs: list[float]) -> None:
        order.append(name)
        clock.now += costs.pop(0)

    a, b = [100.0, 1.0, 2.0, 3.0], [100.0, 4.0, 4.0, 4.0]
    seconds = take_turns({"a": lambda: runs("a", a), "b": lambda: runs("b", b)}, 3, clock)
    assert seconds == {"a": [1.0, 2.0, 3.0], "b": [4.0, 4.0, 4.0]}
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]


def test_ratios_are_within_a_round() -> None:
    """A machine that gets ten times slower half way: medians drift, ratios do not."""
    found = compare({"engine": [1.0, 1.0, 10.0, 10.0], "peer": [2.0, 2.0, 20.0, 20.0]}, "engine")
    assert found["peer"].ratio == 0.5
    assert found["engine"].ratio == 1.0
    assert found["peer"].median_ms == 11_000
    assert found["engine"].p95_ms == 10_000
