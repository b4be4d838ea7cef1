"""The model repository: what Triton's own message class reads, and that its preprocessing is ours.

No Triton server is at hand: the Python model is run with a stand-in for the backend's module, the ensemble
is followed by hand.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from dinodeploy import Embedder
from dinodeploy.bundle.bundle import file_facts
from dinodeploy.bundle.manifest import BuildFacts, EngineFacts, ProfileFacts, read_manifest, write_manifest
from tests.support.images.image_files import encoded
from tests.support.processes.command_line import CommandLine

pytest.importorskip("tritonclient.grpc", reason="the schema comes with the [triton] extra")


@pytest.fixture
def repository(tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> Path:
    ran = run("triton", tiny_bundle, tmp_path / "models", "--name", "tiny")
    assert ran.code == 0, ran.err
    return tmp_path / "models"


def _config(folder: Path) -> Any:
    from tritonclient.grpc import model_config_pb2

    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_triton_s_own_class_reads_the_configurations(repository: Path, tiny_bundle: Path) -> None:
    engine, steps, whole = (_config(repository / name) for name in ("tiny_engine", "tiny_preprocess", "tiny"))
    assert (engine.name, engine.platform, engine.max_batch_size) == ("tiny_engine", "onnxruntime_onnx", 8)
    assert {output.name: list(output.dims) for output in engine.output} == {
        "cls": [128],
        "storage": [4, 128],
        "patch": [-1, -1, 128],
        "layer_1": [-1, -1, 128],
    }
    assert engine.dynamic_batching.max_queue_delay_microseconds == 2000
    assert engine.instance_group[0].kind == engine.instance_group[0].KIND_CPU
    assert engine.parameters["intra_op_thread_count"].string_value == "0"
    assert list(engine.model_warmup[0].inputs["pixels"].dims) == [3, 256, 256]
    assert steps.backend == "python"
    assert (list(steps.input[0].dims), list(steps.output[0].dims)) == ([1], [3, -1, -1])
    first, second = whole.ensemble_scheduling.step
    assert (first.model_name, second.model_name) == ("tiny_preprocess", "tiny_engine")
    assert dict(first.output_map) == dict(second.input_map) == {"pixels": "pixels"}
    assert [output.name for output in whole.output] == [output.name for output in engine.output]
    assert list((repository / "tiny" / "1").iterdir()) == []


def _shipped(repository: Path, name: str) -> Path:
    """The file that Triton loads for the engine."""
    folder = repository / f"{name}_engine"
    return Path(folder / "1" / _config(folder).default_model_filename)


def test_the_shipped_engine_is_the_announced_one(
    repository: Path, tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    """It opens where it is, with the weights beside it, and gives the same bits."""
    import onnxruntime

    pixels = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    data = Path(__file__).parents[2] / "data" / "format1_bundle"
    format1 = shutil.copytree(data, tmp_path / "format1")  # a judgement adds a receipt
    assert run("triton", format1, repository, "--name", "old").code == 0
    for name, bundle in (("tiny", tiny_bundle), ("old", format1)):
        shipped = _shipped(repository, name)
        assert shipped.name == "model.cpu.onnx"
        files = {file.name: file.read_bytes() for file in shipped.parent.iterdir()}
        assert files == {file: (bundle / file).read_bytes() for file in files}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(shipped), options)
        with Embedder.open(shutil.copytree(bundle, tmp_path / name), threads=1) as embedder:
            assert embedder.engine.file == shipped.name
            ours = embedder.run(pixels)
        for output, got in zip(session.get_outputs(), session.run(None, {"pixels": pixels}), strict=True):
            np.testing.assert_array_equal(got, ours[output.name])


def test_names_and_shapes_are_the_graph_s(repository: Path) -> None:
    """Triton compares the configuration with the graph when it loads it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(_shipped(repository, "tiny")))
    config = _config(repository / "tiny_engine")
    for ours, theirs in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        found = {t.name: [side if isinstance(side, int) else -1 for side in t.shape[1:]] for t in theirs}
        assert {tensor.name: list(tensor.dims) for tensor in ours} == found
        assert {t.type for t in theirs} == {"tensor(float)"}
        assert not any(isinstance(t.shape[0], int) for t in theirs), "the batch must be free"


PROGRAM = """
import importlib.util, json, sys, types
import numpy as np

class Tensor:
    def __init__(self, name, array): self.name, self.array = name, array
    def as_numpy(self): return self.array

triton = types.ModuleType("triton_python_backend_utils")
triton.get_input_tensor_by_name = lambda request, name: request[name]
triton.Tensor = Tensor
triton.TritonError = str
triton.InferenceResponse = lambda output_tensors, error=None: (output_tensors, error)
sys.modules["triton_python_backend_utils"] = triton

folder, images, out = sys.argv[1:]
spec = importlib.util.spec_from_file_location("model", f"{folder}/1/model.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model = module.TritonPythonModel()
model.initialize({"model_repository": folder, "model_version": "1"})
files = [open(path, "rb").read() for path in json.loads(images)]
requests = [{"image": Tensor("image", np.array([[data]], object))} for data in (*files, b"broken")]
requests.append({"image": Tensor("image", np.array([[data] for data in files], object))})
*alone, (nothing, error), (together, _) = model.execute(requests)
foreign = [name for name, module in sys.modules.items()
           if name.partition(".")[0] == "dinodeploy" and not module.__file__.startswith(folder)]
assert not foreign, f"not shipped: {foreign}"
assert nothing == [] and "not an image" in error, error
assert [tensors[0].name for tensors, _ in alone] == ["pixels"] * len(files)
stacked = np.concatenate([tensors[0].as_numpy() for tensors, _ in alone])
assert (stacked == together[0].as_numpy()).all()
np.save(out, stacked)
"""


def test_the_python_model_prepares_as_the_embedder_does(
    repository: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """In a process that has Python, numpy and Pillow: nothing of this repository but what was copied."""
    paths = []
    for name in ("chelsea", "rocket"):
        paths.append(tmp_path / f"{name}.jpg")
        paths[-1].write_bytes(encoded(name))
    out = tmp_path / "pixels.npy"
    arguments = [str(repository / "tiny_preprocess"), json.dumps([str(path) for path in paths]), str(out)]
    ran = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        close_fds=False,  # spawned, not forked: gRPC in this process does not outlive a fork
    )
    assert ran.returncode == 0, ran.stderr
    with Embedder.open(tiny_bundle, threads=1) as embedder:
        ours = embedder.embed(paths)["cls"]
        np.testing.assert_array_equal(embedder.run(np.load(out))["cls"], ours)


def test_images_of_different_inputs_are_refused_together(
    tiny_bundle: Path, tmp_path: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinodeploy.images.open import open_image
    from dinodeploy.images.preprocess import Preprocess
    from dinodeploy.triton.preprocess_model import TritonPythonModel

    model = TritonPythonModel()
    manifest = read_manifest(tiny_bundle)
    ours = manifest.preprocess
    model.preprocess = Preprocess.from_preset("keep-aspect", (64, 64), ours.mean, ours.std)
    model.open_image, model.max_pixels = open_image, None
    with pytest.raises(ValueError, match="64x80, 96x64"):
        model.prepare([encoded("chelsea", (120, 90)), encoded("rocket", (80, 120))])


# ---- engines -----------------------------------------------------------------------------------


def _with_plan(bundle: Path, **changes: Any) -> None:
    """Add something that says it is a plan for batches of 1 to 4."""
    (bundle / "model.plan").write_bytes(b"plan")
    manifest = read_manifest(bundle)
    sizes = [ProfileFacts((1, 224, 224), (2, 256, 256), (most, 512, 512)) for most in (4, 8)]
    facts = {
        "runtime": "tensorrt 10.3.0",
        "source": "model.onnx",
        "source_sha256": manifest.files["model.onnx"].sha256,
        "profiles": tuple(sizes),
        "compute_capabilities": ("8.9",),
        "driver": None,
        "version_compatible": False,
        "hardware_compatible": "none",
        "refittable": False,
        "stripped": False,
        "weight_streaming": False,
        "optimization_level": None,
    }
    build = BuildFacts(**{**facts, **changes})  # type: ignore[arg-type]
    engines = {**manifest.engines, "model.plan": EngineFacts("tensorrt", ("model.plan",), build)}
    files = {**manifest.files, "model.plan": file_facts(bundle / "model.plan")}
    write_manifest(replace(manifest, engines=engines, files=files), bundle)


def test_a_plan_is_run_by_tensorrt(own_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    _with_plan(own_bundle)
    ran = run("triton", own_bundle, tmp_path / "r", "--name", "t", "--max-batch", 4, "--json")
    assert ran.json["platform"] == "tensorrt_plan"
    assert ran.json["judged"].startswith(("not judged: it does not run here", "judged on"))
    config = _config(tmp_path / "r" / "t_engine")
    assert config.default_model_filename == "model.plan"
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    assert (tmp_path / "r" / "t_engine" / "1" / "model.plan").read_bytes() == b"plan"
    refused = run("triton", own_bundle, tmp_path / "s", "--max-batch", 8)
    assert refused.code == 2
    assert "built for at most 4" in refused.error
    assert not list((tmp_path / "s").glob("*"))
    graph = run("triton", own_bundle, tmp_path / "u", "--device", "cpu", "--json")
    assert graph.json["platform"] == "onnxruntime_onnx"


def test_what_is_shipped_is_judged(own_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    """A receipt of the bundle counts; without one the engine is judged, and a wrong one is not shipped."""
    ran = run("triton", own_bundle, tmp_path / "r", "--json")
    assert ran.json["engine"] == "model.cpu.onnx"
    assert "onnxruntime" in ran.json["judged"]
    (weights := own_bundle / "model.onnx.data").write_bytes(weights.read_bytes()[::-1])
    manifest = read_manifest(own_bundle)
    files = {name: file_facts(own_bundle / name) for name in manifest.files}
    write_manifest(replace(manifest, files=files), own_bundle)
    refused = run("triton", own_bundle, tmp_path / "s")
    assert refused.code == 1
    assert "is not the model here" in refused.error
    assert not (tmp_path / "s").exists()


def test_a_cls_only_graph_announces_no_other_output(
    own_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    assert run("triton", own_bundle / "model.cpu.cls.onnx", tmp_path / "r", "--name", "t").code == 0
    assert [output.name for output in _config(tmp_path / "r" / "t_engine").output] == ["cls"]
    assert [output.name for output in _config(tmp_path / "r" / "t").output] == ["cls"]


def test_a_plan_without_weights_is_refused(own_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    _with_plan(own_bundle, stripped=True)
    ran = run("triton", own_bundle, tmp_path / "r")
    assert ran.code == 4
    assert "no weights of its own" in ran.error


def test_the_gpu_runs_the_graph_itself(tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    assert run("triton", tiny_bundle, tmp_path / "r", "--name", "t", "--device", "cuda").code == 0
    config = _config(tmp_path / "r" / "t_engine")
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    assert config.optimization.input_pinned_memory.enable
    assert config.parameters["cudnn_conv_algo_search"].string_value == "1"


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--device", "tpu"), 2, "--device 'tpu'"),
        (("--device", "tensorrt"), 4, "dinodeploy build"),
        (("--max-batch", "0"), 2, "--max-batch is 0"),
        (("--name", "../x"), 2, "--name '../x'"),
        (("--max-wait-ms", "-1"), 2, "--max-wait-ms is -1"),
    ],
)
def test_options_that_mean_nothing(
    options: tuple[str, ...], code: int, words: str, tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    ran = run("triton", tiny_bundle, tmp_path / "r", *options)
    assert (ran.code, words in ran.error) == (code, True), ran.error
    assert not (tmp_path / "r").exists()


def test_what_is_there_stays_unless_told_otherwise(
    repository: Path, tiny_bundle: Path, run: CommandLine
) -> None:
    (repository / "other").mkdir()
    again = run("triton", tiny_bundle, repository, "--name", "tiny")
    assert again.code == 2
    assert "--overwrite" in again.error
    assert run("triton", tiny_bundle, repository, "--name", "tiny", "--overwrite").code == 0
    (repository / "foreign_engine").mkdir()  # no model of ours: never removed
    assert run("triton", tiny_bundle, repository, "--name", "foreign", "--overwrite").code == 2
    assert sorted(path.name for path in repository.iterdir()) == [
        "foreign_engine",
        "other",
        "tiny",
        "tiny_engine",
        "tiny_preprocess",
    ]


def test_a_tampered_engine_goes_nowhere(own_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    weights = own_bundle / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    ran = run("triton", own_bundle, tmp_path / "r")
    assert ran.code == 2
    assert "is not the file that was exported" in ran.error
    assert not (tmp_path / "r").exists()
    shutil.rmtree(own_bundle)
