"""Where a graph may keep its weights, and that no runtime sees a graph that keeps them elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from dinodeploy import Embedder
from dinodeploy.backends import select
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import file_facts
from dinodeploy.bundle.external_data import FIELDS, SINGLE, check_external_data
from dinodeploy.errors import BundleError

SIZES = {"model.onnx": 1000, "weights.data": 64}


def tensor(location: str | None = "weights.data", offset: object = 0, length: object = 16) -> TensorProto:
    made = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            made.external_data.add(key=key, value=str(value))
    return made


def in_node(**attribute: object) -> GraphProto:
    node = NodeProto(op_type="Constant", output=["w"], attribute=[AttributeProto(name="value", **attribute)])
    return GraphProto(node=[node])


def sparse(one: TensorProto) -> SparseTensorProto:
    return SparseTensorProto(values=one)


# Every place of a tensor in a model, that a runtime may follow.
PLACES: dict[str, Callable[[TensorProto], ModelProto]] = {
    "initializer": lambda one: ModelProto(graph=GraphProto(initializer=[one])),
    "sparse initializer": lambda one: ModelProto(graph=GraphProto(sparse_initializer=[sparse(one)])),
    "sparse indices": lambda one: ModelProto(
        graph=GraphProto(sparse_initializer=[SparseTensorProto(indices=one)])
    ),
    "attribute": lambda one: ModelProto(graph=in_node(t=one)),
    "attribute of many": lambda one: ModelProto(graph=in_node(tensors=[TensorProto(), one])),
    "sparse attribute": lambda one: ModelProto(graph=in_node(sparse_tensor=sparse(one))),
    "sparse attributes": lambda one: ModelProto(graph=in_node(sparse_tensors=[sparse(one)])),
    "subgraph": lambda one: ModelProto(graph=in_node(g=GraphProto(initializer=[one]))),
    "subgraphs": lambda one: ModelProto(graph=in_node(graphs=[GraphProto(), in_node(t=one)])),
    "deep subgraph": lambda one: ModelProto(graph=in_node(g=in_node(g=in_node(g=in_node(t=one))))),
    "function": lambda one: ModelProto(functions=[onnx.FunctionProto(node=in_node(t=one).node)]),
    "function default": lambda one: ModelProto(
        functions=[onnx.FunctionProto(attribute_proto=[AttributeProto(name="a", t=one)])]
    ),
    "training": lambda one: ModelProto(
        training_info=[onnx.TrainingInfoProto(initialization=GraphProto(initializer=[one]))]
    ),
}
ELSEWHERE = [
    *("../weights.data", "/etc/passwd", "sub/weights.data", "./weights.data", "", "other.data"),
    *("weights.data\0", "WEIGHTS.DATA", "*/_ORT_MEM_ADDR_/*", "C:\\weights.data", "file:///weights.data"),
]


def check(folder: Path, model: ModelProto | bytes, sizes: dict[str, int] = SIZES) -> None:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    (folder / "weights.data").write_bytes(bytes(64))
    (folder / "other.data").write_bytes(bytes(64))
    check_external_data(folder / "model.onnx", sizes)


def test_the_table_has_every_way_to_a_tensor() -> None:
    """Computed from onnx's own description of the format: a field that a later version adds is noticed."""
    leads: dict[str, bool] = {"TensorProto": True}

    def leads_to_tensor(message: Descriptor) -> bool:
        if message.name not in leads:
            leads[message.name] = False
            leads[message.name] = any(
                field.message_type is not None and leads_to_tensor(field.message_type)
                for field in message.fields
            )
        return leads[message.name]

    found: dict[str, dict[int, str]] = {}
    single: dict[str, frozenset[int]] = {}
    ahead = [ModelProto.DESCRIPTOR]
    for _ in range(3):  # messages contain themselves
        leads_to_tensor(ModelProto.DESCRIPTOR)
        leads = {name: True for name, yes in leads.items() if yes}
    while ahead:
        message = ahead.pop()
        if message.name in found or message.name == "TensorProto":
            continue
        inner = [f for f in message.fields if f.message_type is not None and leads_to_tensor(f.message_type)]
        found[message.name] = {field.number: field.message_type.name for field in inner}
        if one := frozenset(field.number for field in inner if not field.is_repeated):
            single[message.name] = one
        ahead += [field.message_type for field in inner]
    assert found == FIELDS
    assert single == SINGLE


@pytest.mark.parametrize("place", PLACES)
def test_weights_in_a_listed_file(place: str, tmp_path: Path) -> None:
    check(tmp_path, PLACES[place](tensor()))
    check(tmp_path, PLACES[place](tensor(offset=48)))
    check(tmp_path, PLACES[place](tensor(offset=None)))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ELSEWHERE)
def test_weights_elsewhere(place: str, location: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="wanted a file beside the graph that belongs to it"):
        check(tmp_path, PLACES[place](tensor(location)))


@pytest.mark.parametrize(
    ("offset", "length"),
    [(49, 16), (0, 65), (2**62, 16), (-4, 16), ("0x10", 16), ("1e1", 16), ("٣", 16), (0, None), (0, "")],
)
def test_places_outside_the_file(offset: object, length: object, tmp_path: Path) -> None:
    for place in PLACES.values():
        with pytest.raises(BundleError, match=r"ends at byte|wanted numbers"):
            check(tmp_path, place(tensor(offset=offset, length=length)))


def twice(key: str) -> TensorProto:
    made = tensor()
    made.external_data.add(key=key, value="other.data")
    return made


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "text": b"not a graph at all",
    "xml": b"<?xml version='1.0'?><net name='model'/>",
    "cut off": PLACES["initializer"](tensor()).SerializeToString()[:-5],
    "no place": PLACES["attribute"](tensor(None, None, None)).SerializeToString(),
    "location twice": PLACES["initializer"](twice("location")).SerializeToString(),
    "unknown key": PLACES["initializer"](twice("basepath")).SerializeToString(),
    "two graphs": PLACES["initializer"](tensor()).SerializeToString() * 2,
    "a node that opens a file": ModelProto(
        graph=GraphProto(node=[NodeProto(op_type="EPContext", domain="com.microsoft")])
    ).SerializeToString(),
    # protobuf and XML at once: OpenVINO would read its weights from a file beside it
    "xml after a line break": b"\n<" + b"x" * 60 + PLACES["initializer"](tensor()).SerializeToString(),
    "xml after a space": b"  <!----->" + PLACES["initializer"](tensor()).SerializeToString(),
    "a number where the graph should be": b"\x38\x01",
    "group": b"\x3b\x3c",
    "field 0": b"\x02\x00",
    "endless number": b"\x80" * 40,
    "long length": b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_graph(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        check(tmp_path, MALFORMED[name])
    assert "\n" not in str(caught.value)


def field(number: int, content: bytes) -> bytes:
    length, size = b"", len(content)
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_deep_and_large_graphs_end_soon(tmp_path: Path) -> None:
    graph = b""
    for number in (6, 5, 1) * 30:  # a graph in an attribute in a node in a graph
        graph = field(number, graph)
    started = time.process_time()
    with pytest.raises(BundleError, match="nested at most 64 deep"):
        check(tmp_path, field(7, graph))
    with pytest.raises(BundleError, match="at most 2,000,000 fields"):
        check(tmp_path, b"\x08\x08" * 2_100_000)
    assert time.process_time() - started < 20  # measured: 2


def test_links_are_refused(tmp_path: Path) -> None:
    model = PLACES["initializer"](tensor()).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(model)
    (tmp_path / "elsewhere").write_bytes(bytes(64))
    (tmp_path / "weights.data").symlink_to("elsewhere")
    with pytest.raises(BundleError, match="is missing or a link"):
        check_external_data(tmp_path / "model.onnx", SIZES)
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(BundleError, match="not a regular file"):
        check_external_data(tmp_path / "pipe.onnx", SIZES)


# ---- in a bundle ---------------------------------------------------------------------------------------


def move_weights(path: Path, location: str, *, length: int | None = None) -> None:
    model = onnx.load(path, load_external_data=False)
    for one in model.graph.initializer:
        for entry in one.external_data:
            if entry.key == "location":
                entry.value = location
            elif entry.key == "length" and length is not None:
                entry.value = str(length)
    onnx.save(model, path)


def reseal(root: Path, *, more: tuple[str, ...] = ()) -> None:
    manifest = manifests.read_manifest(root)
    files = {name: file_facts(root / name) for name in (*manifest.files, *more)}
    manifests.write_manifest(replace(manifest, files=files), root)


@pytest.mark.parametrize("listed", [False, True], ids=["not in the manifest", "of another engine"])
@pytest.mark.parametrize("engine", ["model.cpu.onnx", "model.onnx", "model.cpu.cls.onnx"])
def test_no_runtime_sees_a_graph_with_weights_elsewhere(
    own_bundle: Path, engine: str, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(own_bundle / "model.onnx.data", own_bundle / "other.data")
    move_weights(own_bundle / engine, "other.data")
    reseal(own_bundle, more=("other.data",) if listed else ())
    opened: list[Path] = []
    monkeypatch.setattr(select, "open_backend", lambda name, path, **options: opened.append(path))
    devices = ("onnxruntime", "openvino") if engine == "model.onnx" else ("onnxruntime",)
    for device in devices:
        with pytest.raises(BundleError, match=r"a tensor is in 'other\.data'"):
            Embedder.open(own_bundle / engine, device=device, allow_unverified=True)
    assert opened == []


@pytest.mark.parametrize("name", ["model.xml", "model.ort", "model.onnx.txt", "model"])
def test_a_graph_that_a_runtime_would_read_as_another_format(
    own_bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runtimes choose the format by the suffix; some formats keep weights in a file with another one."""
    shutil.copy(own_bundle / "model.cpu.onnx", own_bundle / name)
    reseal(own_bundle, more=(name,))
    manifest = manifests.read_manifest(own_bundle)
    facts = manifest.engines["model.cpu.onnx"]
    engines = {**manifest.engines, name: replace(facts, files=(name, *facts.files[1:]))}
    manifests.write_manifest(replace(manifest, engines=engines), own_bundle)
    opened: list[Path] = []
    monkeypatch.setattr(select, "open_backend", lambda name, path, **options: opened.append(path))
    with pytest.raises(BundleError, match=r"wanted a name NAME\.onnx"):
        Embedder.open(own_bundle / name, allow_unverified=True)
    assert opened == []
