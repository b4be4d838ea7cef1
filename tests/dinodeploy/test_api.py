"""The public calls, as the README and the package's docstring show them: export, embed, encode, stream."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main

import dinodeploy
from dinodeploy.cli.app import make_app
from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.processes.command_line import CommandLine

TOY = Path(__file__).parents[2] / "examples" / "models" / "toy_vit"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with photographs."""
    root = tmp_path_factory.mktemp("work")
    (root / "photos").mkdir()
    for name in PHOTOGRAPHS:
        photograph(name).resize((320, 240)).save(root / "photos" / f"{name}.jpg", quality=95)
    shutil.copy(root / "photos" / "chelsea.jpg", root / "cat.jpg")
    return root


def the_block(weights: str | Path, imgsz: int, **options: Any) -> None:
    """The calls as the README shows them, in the working directory."""
    bundle = dinodeploy.export(weights, out="bundle", precision="fp32", imgsz=imgsz, **options)
    assert bundle.root == Path("bundle")
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    dim = bundle.manifest.model.embed_dim

    report = dinodeploy.embed(["photos/"], engine="bundle", out="embeddings", outputs=("cls",))
    assert (report.embedded, report.quarantined, report.kept) == (len(PHOTOGRAPHS), 0, 0)
    assert report.seconds > 0
    assert report.rate > 0
    ids, vectors = dinodeploy.load_embeddings("embeddings")

    with dinodeploy.Embedder.open("bundle") as embedder:
        assert embedder.encode("cat.jpg").shape == (dim,)
        images = list(ids)
        rows = embedder.encode(images, output="cls", normalize=True)
        assert rows.shape == (len(ids), dim)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
        rows = embedder.encode(images, on_error="skip", progress=True, batch_size=8)
        np.testing.assert_array_equal(rows, vectors, "the same bits")
        np.testing.assert_array_equal(embedder.encode("cat.jpg"), rows[ids.index("photos/chelsea.jpg")])
        seen = []
        for index, vector in embedder.stream((image for image in images), output="pooled"):
            assert vector.shape == (2 * dim,)
            seen.append(index)
    assert seen == list(range(len(ids)))


def test_the_block_on_the_toy_model(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").symlink_to(work / "photos")
    (tmp_path / "cat.jpg").symlink_to(work / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    the_block(TOY, 64)


@pytest.mark.slow
def test_the_block_on_a_vit_s_with_random_weights(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").symlink_to(work / "photos")
    (tmp_path / "cat.jpg").symlink_to(work / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    the_block("random", 224, arch="vit_small")


@pytest.mark.parametrize("outputs", ["cls", "cls,pooled,patch"])
@pytest.mark.parametrize(("threads", "hint"), [(4, "latency"), (2, "throughput")])
def test_embed_the_command_and_encode_give_the_same_bits(
    outputs: str,
    threads: int,
    hint: Any,
    work: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    run: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten images are enough for throughput mode on two threads: one batch per thread."""
    monkeypatch.chdir(work)
    names = tuple(outputs.split(","))
    options = ("--engine", tiny_bundle, "--device", "onnxruntime", "--threads", threads)
    command = run("embed", "photos", *options, "--outputs", outputs, "--out", tmp_path / "c")
    assert ("batches in parallel" in command.err) == (hint == "throughput")
    where: dict[str, Any] = {"device": "onnxruntime", "threads": threads}
    dinodeploy.embed("photos", engine=tiny_bundle, out=tmp_path / "e", outputs=names, **where)
    opened = dinodeploy.Embedder.open(tiny_bundle, hint=hint, **where)
    with opened as embedder:
        for name in names:
            ids, wanted = dinodeploy.load_embeddings(tmp_path / "c", name)
            np.testing.assert_array_equal(dinodeploy.load_embeddings(tmp_path / "e", name)[1], wanted)
            if name == "cls" and len(names) > 1:
                continue  # the graph with all outputs made it; encode runs the CLS-only graph
            np.testing.assert_array_equal(embedder.encode(ids, output=name), wanted)


def test_embed_resumes_and_reports(work: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"")
    said: list[str] = []
    images = [work / "photos", tmp_path / "broken.jpg"]
    options: dict[str, Any] = {"engine": tiny_bundle, "out": tmp_path / "o", "imgsz": 32, "log": said.append}
    first = dinodeploy.embed(images, **options)
    count = len(PHOTOGRAPHS)
    assert (first.embedded, first.quarantined, first.kept, first.fresh) == (count, 1, 0, count + 1)
    assert said[0].startswith("[auto] model")
    again = dinodeploy.embed(images, **options)
    assert (again.embedded, again.quarantined, again.kept, again.fresh) == (count, 1, count + 1, 0)
    with pytest.raises(dinodeploy.OutputExistsError, match="holds other embeddings"):
        dinodeploy.embed(images, **{**options, "imgsz": 64})


def test_normalized_embeddings(work: Path, tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    """Length 1 on request, and always in the format whose readers take products for cosines."""
    options: dict[str, Any] = {"engine": tiny_bundle, "device": "onnxruntime"}
    report = dinodeploy.embed(work / "photos", out=tmp_path / "unit", normalize=True, **options)
    assert report.normalize
    ids, unit = dinodeploy.load_embeddings(tmp_path / "unit")
    with dinodeploy.Embedder.open(tiny_bundle, device="onnxruntime") as embedder:
        np.testing.assert_array_equal(embedder.encode(ids, normalize=True), unit)
    command = ("embed", work / "photos", "--engine", tiny_bundle, "--device", "onnxruntime", "--json")
    refused = run(*command, "--out", tmp_path / "unit")
    assert "normalize: true, now false" in refused.err
    printed = run(*command, "--out", tmp_path / "c", "--format", "clip-retrieval", "--dtype", "fp16")
    assert printed.json["normalize"] is True
    (path,) = (tmp_path / "c" / "img_emb").iterdir()
    stored = np.load(path)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, np.asarray(unit, np.float16))
    refused = run(*command, "--out", tmp_path / "d", "--format", "clip-retrieval", "--dtype", "int8")
    assert "got dtype int8, its readers know only float32 and float16" in refused.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ("cls", "logits")}, "'logits' does not fit; wanted distinct names of cls, storage"),
        ({"outputs": ()}, "outputs: got none"),
        ({"batch": 0}, "batch is 0; wanted at least 1"),
        ({"shards": (3, 2)}, "shards 3/2; wanted i/n"),
        ({"shards": "2/2", "cluster": "local"}, "cluster and shards exclude each other"),
        ({"dtype": "fp8"}, "dtype 'fp8' is unknown"),
        ({"keep_aspect": True, "preprocess": "timm"}, "keep_aspect and the preset timm exclude each other"),
        ({"max_patches": 9}, "max_patches needs keep_aspect"),
        ({"time_limit": 0}, "time_limit is 0; wanted more than 0 seconds"),
        ({"device": "abacus"}, "'abacus' is unknown"),
    ],
)
def test_misuse_of_embed(
    options: dict[str, Any], message: str, work: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(dinodeploy.MisuseError, match=message):
        dinodeploy.embed(work / "photos", engine=tiny_bundle, out=tmp_path / "o", **options)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "random"}, "weights 'random' need an arch"),
        (
            {"weights": "random", "arch": "vit_small", "adapter": "a"},
            "adapter needs the weights it was trained",
        ),
        ({"rope_periods": "fp8"}, "rope_periods is 'fp8'; wanted bf16 or fp32"),
        ({"fold": "gelu"}, "unknown fold 'gelu'"),
        ({"precision": "fp12"}, "precision 'fp12'"),
        ({"target": "rtx", "no_engine": True}, "no_engine and target rtx contradict each other"),
    ],
)
def test_misuse_of_export(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(dinodeploy.MisuseError, match=message):
        dinodeploy.export(**{"weights": TOY, "out": tmp_path / "b", **options})
    assert not (tmp_path / "b").exists()


def test_export_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exporters.bundle.export", None)
    with pytest.raises(dinodeploy.UnavailableError, match=r"pip install 'dinodeploy\[export\]'") as caught:
        dinodeploy.export("random", arch="vit_small")
    assert caught.value.exit_code == 4


# option of the command -> keyword of the function, where the names differ; None: only the command has it
NAMES = {"json": None, "strict": None, "external_data": None, "layout": None, "fp16": "precision",
         "half": "precision", "bf16": "precision", "int8": "precision", "fp8": "precision"}  # fmt: skip


@pytest.mark.parametrize("name", ["embed", "export"])
def test_every_option_of_a_command_is_a_keyword(name: str) -> None:
    command = typer.main.get_command(make_app()).commands[name]  # type: ignore[attr-defined]
    keywords = set(inspect.signature(getattr(dinodeploy, name)).parameters)
    options = {
        option.removeprefix("--").replace("-", "_")
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    }
    missing = {option for option in options if NAMES.get(option, option) not in {*keywords, None}}
    assert not missing


def test_the_report_is_what_the_command_prints(
    work: Path, tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    report = dinodeploy.embed(work / "photos", engine=tiny_bundle, out=tmp_path / "o", imgsz=32)
    command = ("embed", work / "photos", "--engine", tiny_bundle, "--out", tmp_path / "o", "--imgsz", "32")
    printed = run(*command, "--json").json
    assert printed["embedded"] == report.embedded
    assert printed["kept"] == report.fresh
    assert tuple(printed["outputs"]) == report.outputs
    assert json.loads((tmp_path / "o" / "embeddings.json").read_text())["count"] == report.embedded
