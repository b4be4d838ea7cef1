"""The command line: options pinned, every failure one line and its exit code, nothing half-written."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from safetensors.torch import save_file

from dinodeploy import load_embeddings
from dinodeploy.cli.app import make_app
from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine, assert_refused
from tests.support.tiny_models import tiny_config

# The commands' options are a promise to scripts: a change here belongs into the changelog.
OPTIONS = {
    "bundle verify": "require-signature json",
    "bundle sign": "key password json",
    "bundle pack": "out standalone require-signature overwrite json",
    "bundle unpack": "out require-signature overwrite json",
    "bundle push": "revision branch private gated message dry-run require-signature json",
    "bundle pull": "revision branch require-signature overwrite json",
    "export": "arch weights out layout precision fp16 half bf16 int8 fp8 calibration calibration-images "
    "calibration-seed override imgsz preprocess input layers head classes pooling attention dataset "
    "rope-periods weights-key vocab backbone-outputs adapter module outputs dynamic task head-precision "
    "dialect fold external-data seed revision offline target no-engine overwrite json",
    "build": "target profile batch imgsz workspace timing-cache refit strip-plan version-compatible "
    "hardware-compatible weight-streaming level compute-capability name cls-only allow-known-bad "
    "require-signature overwrite json",
    "embed": "engine out column id-column every device imgsz preprocess keep-aspect max-patches fast-jpeg "
    "format outputs dtype normalize shard-size shards cluster batch threads weight-budget workers decode "
    "time-limit max-pixels require-signature allow-unverified overwrite update keep-missing "
    "retry-quarantined identify verify strict json",
    "index": "output metadata engine faiss require-signature update overwrite json",
    "merge": "out overwrite json",
    "search": "image id text text-weight neighbours filter text-filter engine device exact verify html "
    "max-pixels require-signature json",
    "classify": "engine labels templates out top column id-column every device imgsz batch threads "
    "time-limit max-pixels require-signature allow-unverified overwrite json",
    "segment": "engine labels templates out min-cosine save html imgsz window stride column id-column every "
    "device batch threads time-limit max-pixels require-signature allow-unverified overwrite json",
    "dedupe": "threshold output write html json",
    "visualize": "engine what out html imgsz point mask checkpoint layer device threads "
    "max-pixels require-signature allow-unverified overwrite json",
    "check": "device threads weight-budget require-signature bisect against images neighbours report json",
    "inspect": "require-signature weights-key json",
    "doctor": "require-signature json",
    "debug": "out runner graph require-signature overwrite json",
    "convert": "to out arch rope-periods weights-key overwrite json",
    "serve": "host port index labels templates api-key-file served-model-name device threads "
    "weight-budget workers max-batch "
    "max-wait-ms queue max-bytes max-pixels max-images rate time-limit max-answer max-inflight "
    "max-connections decode-seconds decode-memory formats allowed-host allow-urls ray require-signature "
    "allow-unverified",
    "web": "runtime require-signature overwrite json",
    "triton": "device name max-batch max-wait-ms instances preprocessors threads require-signature "
    "overwrite json",
    "ranges": "images imgsz arch weights-key limit plot picture json",  # names
    "bench": "vs batch imgsz rounds threads device outputs checkpoint out plot picture "  # names
    "require-signature json",
    "train-head": "task data out engine lora unfreeze weights arch imgsz set test pooling class-weight seed "
    "cache no-cache device require-signature overwrite json",
    **{f"evaluate {task}": "" for task in ("knn", "linear", "logistic", "segmentation", "depth")},
    "add-head": "head out require-signature overwrite json",
    "predict": "engine out task top threshold format save html column id-column every device imgsz batch "
    "threads time-limit max-pixels require-signature allow-unverified overwrite json",
}


def commands_of(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command, those of groups by both names."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        is_group = hasattr(command, "commands")
        found |= commands_of(command, f"{name} ") if is_group else {f"{prefix}{name}": command}
    return found


def test_options_are_pinned() -> None:
    found = {
        name: " ".join(
            option.removeprefix("--")
            for parameter in command.params
            for option in parameter.opts
            if option.startswith("--") and option != "--help"
        )
        for name, command in commands_of(typer.main.get_command(make_app())).items()
    }
    assert found == OPTIONS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("chelsea", "rocket"):
        photograph(name).save(folder / f"{name}.jpg")
    return folder


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_checkpoint(random_checkpoint(tiny_config()), "official", path)
    return path


# ---- what works --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["npy", "npz", "safetensors", "parquet"])
def test_embed_writes_every_format(
    layout: str, tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    out = tmp_path / "out"
    ran = run(
        "embed", photos, "--engine", tiny_bundle, "--out", out, "--format", layout, "--outputs", "cls,patch"
    )
    assert ran.code == 0, ran.err
    ids, vectors = load_embeddings(out)
    assert [Path(id_).name for id_ in ids] == ["chelsea.jpg", "rocket.jpg"]
    assert vectors.shape == (2, 128)  # type: ignore[union-attr]
    assert load_embeddings(out, "patch")[1].shape == (2, 16, 16, 128)  # type: ignore[union-attr]


def test_embed_takes_an_engine_file(
    tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    ran = run("embed", photos, "--engine", tiny_bundle / "model.onnx", "--out", tmp_path / "o", "--json")
    assert (ran.code, ran.json["embedded"], ran.json["quarantined"]) == (0, 2, 0)


def test_quarantine_ends_in_5(tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    ran = run("embed", photos, "--engine", tiny_bundle, "--out", tmp_path / "o", "--json")
    assert (ran.code, ran.json["embedded"], ran.json["quarantined"]) == (5, 2, 1)
    row = json.loads((tmp_path / "o" / "quarantine.jsonl").read_text())
    assert Path(row["id"]).name == "broken.jpg"
    assert row["reason"]


def test_another_preset_changes_the_numbers_and_the_fingerprint(
    tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    for name, extra in (("a", ()), ("b", ("--preprocess", "timm"))):
        assert run("embed", photos, "--engine", tiny_bundle, "--out", tmp_path / name, *extra).code == 0
    a, b = (json.loads((tmp_path / name / "embeddings.json").read_text()) for name in "ab")
    assert a["fingerprint"]["preprocess"]["preset"] == "official"
    assert b["fingerprint"]["preprocess"]["preset"] == "timm"
    assert (load_embeddings(tmp_path / "a")[1] != load_embeddings(tmp_path / "b")[1]).any()


def test_check_prints_a_table_and_json(tiny_bundle: Path, run: CommandLine) -> None:
    ran = run("check", tiny_bundle)
    assert ran.code == 0
    assert "rel.Frob." in ran.out
    assert "…" not in ran.out, "nothing is cut off at eighty columns"
    assert ran.out.rstrip().endswith("passed")
    as_json = run("check", tiny_bundle, "--json").json
    assert as_json["passed"] is True
    assert as_json["measurements"]


def test_check_of_a_wrong_engine_ends_in_1(
    own_bundle: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinodeploy.backends.onnxruntime import OnnxRuntimeBackend

    original = OnnxRuntimeBackend.run
    monkeypatch.setattr(
        OnnxRuntimeBackend, "run", lambda self, x: {k: 1.001 * v for k, v in original(self, x).items()}
    )
    ran = run("check", own_bundle, "--json")
    assert (ran.code, ran.json["passed"]) == (1, False)
    assert "FAILED" in run("check", own_bundle).out
    (own_bundle / "parity.json").unlink()
    photo = own_bundle.parent / "p.png"
    photograph("coffee").save(photo)
    refused = run("embed", photo, "--engine", own_bundle, "--out", own_bundle.parent / "o")
    assert refused.code == 1
    assert "is not the model here" in refused.error
    assert not (own_bundle.parent / "o").exists()
    allowed = run(
        "embed", photo, "--engine", own_bundle, "--out", own_bundle.parent / "o", "--allow-unverified"
    )
    assert allowed.code == 0


def test_inspect_begins_with_a_summary(tiny_bundle: Path, run: CommandLine) -> None:
    summary, _, details = run("inspect", tiny_bundle).out.partition("\n\n")
    assert len(summary.splitlines()) <= 15
    assert all(len(line) <= 160 for line in summary.splitlines())
    for fact in ("custom: 3 blocks of width 128", "fp32", "256x256", "cls, storage, patch", "model.cpu.onnx"):
        assert fact in summary
    assert "receipts passed" in summary
    assert details.startswith("kind: bundle")


def test_inspect_knows_bundles_graphs_and_checkpoints(
    tiny_bundle: Path, checkpoint_file: Path, tmp_path: Path, run: CommandLine
) -> None:
    bundle = run("inspect", tiny_bundle, "--json").json
    assert bundle["kind"] == "bundle"
    assert bundle["operators"]["Softmax"] == 3
    assert bundle["receipts"][0]["passed"] is True
    shutil.copy(tiny_bundle / "model.onnx", tmp_path / "lone.onnx")
    graph = run("inspect", tmp_path / "lone.onnx", "--json").json
    assert graph["kind"] == "onnx"
    assert graph["inputs"] == {"pixels": ["batch", 3, "height", "width"]}
    checkpoint = run("inspect", checkpoint_file, "--json").json
    assert (checkpoint["kind"], checkpoint["layout"]) == ("checkpoint", "official")
    assert "embed_dim: 128" in run("inspect", checkpoint_file).out


def test_convert_says_which_model_it_reads(tmp_path: Path, run: CommandLine) -> None:
    state = dict(random_checkpoint(tiny_config("mlp")).state)
    average = {**state, "norm.bias": state["norm.bias"] + 1}
    torch.save({"state_dict": state, "state_dict_ema": average}, tmp_path / "a.pth")
    ran = run("convert", tmp_path / "a.pth", "--to", "hf", "--out", tmp_path / "hf", "--json")
    note = "read the moving average (EMA) in 'state_dict_ema', not state_dict; --weights-key chooses another"
    assert note in ran.json["notes"]
    assert f"note: {note}" in ran.err


def test_convert_there_and_back(checkpoint_file: Path, tmp_path: Path, run: CommandLine) -> None:
    for source, to, out in (
        (checkpoint_file, "hf", tmp_path / "hf"),
        (tmp_path / "hf", "timm", tmp_path / "timm"),
        (tmp_path / "timm", "official", tmp_path / "back.pth"),
    ):
        ran = run("convert", source, "--to", to, "--out", out, "--json")
        assert ran.code == 0, ran.err
        assert ran.json["files"]
    assert run("inspect", tmp_path / "back.pth", "--json").json["config"]["depth"] == 3


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "nothing.jpg", "--engine", "BUNDLE"), "nothing.jpg"),
        (("embed", "PHOTOS", "--engine", "no-bundle"), "no-bundle: no such bundle"),
        (("embed", "PHOTOS"), "Missing option '--engine'"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--imgsz", "100"), "multiple of the patch size 16"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--imgsz", "a,b"), "--imgsz 'a,b'; wanted H or H,W"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--imgsz", "-16"), "--imgsz '-16'"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--outputs", "cls,logits"), "'logits' does not fit"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--outputs", ""), "--outputs ''"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--outputs", "cls,cls"), "distinct names"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--format", "csv"), "csv"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--shard-size", "0"), "shard_size is 0"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--batch", "-1"), "--batch is -1"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--batch", "many"), "--batch is many; wanted auto, or"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--dtype", "fp8"), "dtype 'fp8' is unknown"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--shards", "3/2"), "shards '3/2'; wanted i/n"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--shards", "1/2", "--overwrite"), "remove the directory"),
        (
            ("embed", "PHOTOS", "--engine", "BUNDLE", "--max-patches", "9"),
            "max_patches needs keep_aspect",
        ),
        (
            ("embed", "PHOTOS", "--engine", "BUNDLE", "--keep-aspect", "--max-patches", "0"),
            "max patches: got 0, wanted at least 1",
        ),
        (
            ("embed", "PHOTOS", "--engine", "BUNDLE", "--keep-aspect", "--preprocess", "timm"),
            "keep_aspect and the preset timm exclude each other",
        ),
        (
            ("embed", "PHOTOS", "--engine", "BUNDLE", "--time-limit", "0"),
            "time_limit is 0.0; wanted",
        ),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--workers", "0"), "workers is 0; wanted at least 1"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--preprocess", "square"), "'square' is unknown"),
        (("embed", "PHOTOS", "--engine", "BUNDLE", "--out", "PHOTOS"), "not empty"),
        (("check", "PHOTOS"), "is in no bundle"),
        (("inspect", "nothing"), "no such file"),
        (("export", "--weights", "random"), "weights 'random' need an arch"),
        (("export",), "weights 'hub' need an arch"),
        (("export", "--weights", "random", "--arch", "vit_tiny"), "unknown architecture 'vit_tiny'"),
        (("export", "--weights", "random", "--arch", "vit_small", "--precision", "fp4"), "precision 'fp4'"),
        (("export", "--weights", "random", "--arch", "vit_small", "--imgsz", "250"), "patch size 16"),
        (("export", "--weights", "random", "--arch", "vit_small", "--layers", "x"), "no block number"),
        (
            ("export", "--weights", "random", "--arch", "vit_small", "--layers", "12"),
            "layer 12 does not exist",
        ),
        (("export", "--weights", "random", "--arch", "vit_small", "--fold", "gelu"), "unknown fold 'gelu'"),
        (("export", "--weights", "random", "--arch", "vit_small", "--rope-periods", "fp8"), "bf16 or fp32"),
        (("export", "--weights", "nothing.pth"), "nothing.pth"),
        (("convert", "nothing.pth", "--to", "hf"), "nothing.pth"),
        (("convert", "nothing.pth", "--to", "keras"), "--to 'keras'"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("embed", "--frobnicate"), "No such option: --frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_misuse_is_one_line_and_2(
    arguments: tuple[str, ...],
    message: str,
    tiny_bundle: Path,
    photos: Path,
    tmp_path: Path,
    run: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    places = {"BUNDLE": str(tiny_bundle), "PHOTOS": str(photos)}
    ran = run(*(places.get(argument, argument) for argument in arguments))
    assert_refused(ran, message, tmp_path, before)


class Malicious:
    """A pickle that would create a file when it is loaded without care."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def _bad_checkpoints(folder: Path, good: Path) -> dict[str, Path]:
    state = random_checkpoint(tiny_config()).state
    paths = {
        name: folder / f"{name}.safetensors"
        for name in ("missing", "extra", "shape", "nan", "foreign", "dinov2")
    }
    without = {key: value for key, value in state.items() if key != "blocks.1.mlp.fc1.weight"}
    save_file(without, paths["missing"])
    save_file({**state, "blocks.1.surprise": torch.zeros(3)}, paths["extra"])
    save_file({**state, "norm.weight": torch.ones(64)}, paths["shape"])
    save_file({**state, "norm.weight": torch.full((128,), torch.nan)}, paths["nan"])
    save_file({"encoder.layer.0.weight": torch.zeros(3, 3)}, paths["foreign"])
    save_file({"pos_embed": torch.zeros(1, 197, 384), "cls_token": torch.zeros(1, 1, 384)}, paths["dinov2"])
    paths["truncated"] = folder / "truncated.safetensors"
    paths["truncated"].write_bytes(good.read_bytes()[:-1000])
    paths["truncated pickle"] = folder / "truncated.pth"
    torch.save(state, paths["truncated pickle"])
    paths["truncated pickle"].write_bytes(paths["truncated pickle"].read_bytes()[:-1000])
    for name, content in (("empty", b""), ("text", b"version https://git-lfs.github.com/spec/v1\n")):
        for suffix in (".pth", ".safetensors"):
            paths[f"{name} {suffix}"] = folder / f"{name}{suffix}"
            paths[f"{name} {suffix}"].write_bytes(content)
    paths["malicious"] = folder / "malicious.pth"
    torch.save({"model": Malicious(folder / "executed")}, paths["malicious"])
    paths["malicious, bare pickle"] = folder / "bare.pth"
    paths["malicious, bare pickle"].write_bytes(pickle.dumps(Malicious(folder / "executed")))
    return paths


def test_bad_checkpoints_are_one_line_and_2(checkpoint_file: Path, tmp_path: Path, run: CommandLine) -> None:
    (tmp_path / "bad").mkdir()
    bad = _bad_checkpoints(tmp_path / "bad", checkpoint_file)
    assert len(bad) == 14
    for name, path in bad.items():
        ran = run("export", "--weights", path, "--out", tmp_path / "bundle")
        assert ran.code == 2, f"{name}: {ran.err}"
        assert path.name in ran.error, name
        assert ran.out == ""
        assert [entry.name for entry in tmp_path.iterdir()] == ["bad"], name
    assert not (tmp_path / "bad" / "executed").exists(), "the pickle ran"


def test_a_checkpoint_of_another_architecture_is_refused(
    checkpoint_file: Path, tmp_path: Path, run: CommandLine
) -> None:
    ran = run("export", "--arch", "vit_large", "--weights", checkpoint_file, "--out", tmp_path / "b")
    assert ran.code == 2
    assert "vit_large" in ran.error


def test_a_tampered_bundle_ends_in_2(
    own_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    model = own_bundle / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0xFF
    model.write_bytes(content)
    for command in (
        ("check", own_bundle),
        ("inspect", own_bundle),
        ("embed", photos, "--engine", own_bundle, "--out", tmp_path / "o"),
    ):
        ran = run(*command)
        assert ran.code == 2
        assert "is not the file that was exported" in ran.error
    assert not (tmp_path / "o").exists()


def test_existing_embeddings_are_replaced_only_when_asked(
    tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    command = ("embed", photos, "--engine", tiny_bundle, "--out", tmp_path / "o")
    assert run(*command).code == 0
    before = (tmp_path / "o" / "embeddings.json").read_bytes()
    refused = run(*command, "--imgsz", "64")
    assert refused.code == 2
    assert "holds other embeddings (preprocess.height: 256, now 64; preprocess.width" in refused.error
    assert (tmp_path / "o" / "embeddings.json").read_bytes() == before
    assert run(*command, "--overwrite", "--imgsz", "64").code == 0
    assert (tmp_path / "o" / "embeddings.json").read_bytes() != before


def test_without_the_export_extra_4_and_the_command_that_mends_it(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "exporters.bundle.export", None)
    ran = run("export", "--arch", "vit_small", "--weights", "random")
    assert ran.code == 4
    assert "pip install 'dinodeploy[export]'" in ran.error


def test_an_unreachable_hub_ends_in_4(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    ran = run("export", "--arch", "vit_small", "--offline", "--out", tmp_path / "b")
    assert ran.code == 4
    assert "--weights random" in ran.error


def test_ctrl_c_and_a_full_disk_are_one_line(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinodeploy.cli import check

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", "x.npy")

    monkeypatch.setattr(check, "check_bundle", interrupted)
    ran = run("check", "b")
    assert (ran.code, ran.error) == (130, "error: interrupted; nothing half-written was left")
    monkeypatch.setattr(check, "check_bundle", full)
    ran = run("check", "b")
    assert ran.code == 4
    assert "x.npy: the disk is full" in ran.error


def test_a_closed_pipe_is_no_traceback(tiny_bundle: Path) -> None:
    command = f"{sys.executable} -m dinodeploy.cli.app inspect {tiny_bundle} | head -1"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert len(ran.stdout.splitlines()) == 1
    assert ran.stdout.startswith("bundle of format 2")
    assert ran.stderr == ""


def test_version(run: CommandLine) -> None:
    from dinodeploy import __version__

    ran = run("--version")
    assert (ran.code, ran.out) == (0, f"dinodeploy {__version__}\n")


def test_python_dash_m_is_the_same_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dinodeploy", "inspect", str(tmp_path / "nothing")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "nothing" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
