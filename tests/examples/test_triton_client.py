"""The Triton client against a stand-in that speaks the server's gRPC protocol."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy import Embedder
from dinodeploy.images import open_image
from tests.image_files import encoded

pytest.importorskip("tritonclient.grpc", reason="the client comes with the [triton] extra")


@pytest.fixture
def server(tiny_bundle: Path) -> Iterator[tuple[str, list[Any]]]:
    """Its address, and what it has been asked."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    asked: list[Any] = []

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelInfer(self, request: Any, context: Any) -> Any:
            asked.append(request)
            (binary,) = request.raw_input_contents
            pictures = []
            while binary:  # each element: four bytes of length, then its bytes
                size = int.from_bytes(binary[:4], "little")
                pictures.append(open_image(binary[4 : 4 + size]))
                binary = binary[4 + size :]
            name = request.outputs[0].name
            values: np.ndarray[Any, Any] = embedder.embed(pictures)[name]
            answer = service_pb2.ModelInferResponse(model_name=request.model_name)
            answer.outputs.add(name=name, datatype="FP32", shape=values.shape)
            answer.raw_output_contents.append(values.astype("<f4").tobytes())
            return answer

    with Embedder.open(tiny_bundle, threads=1) as embedder:
        server = grpc.server(ThreadPoolExecutor(1))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", asked
        server.stop(None).wait()


def test_the_client_asks_as_the_repository_wants_it(
    server: tuple[str, list[Any]],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from examples import triton_client

    url, asked = server
    paths = [tmp_path / f"{name}.jpg" for name in ("chelsea", "rocket")]
    for path in paths:
        path.write_bytes(encoded(path.stem))
    command = ["tiny", *map(str, paths), "--url", url, "--bundle", str(tiny_bundle)]
    monkeypatch.setattr(sys, "argv", ["triton_client.py", *command])
    triton_client.main()
    out = capsys.readouterr().out
    assert "chelsea.jpg: cls [128], norm" in out
    assert out.rstrip().endswith("0.00e+00")
    (request,) = asked
    (image,) = request.inputs
    assert request.model_name == "tiny"
    assert (image.name, image.datatype, list(image.shape)) == ("image", "BYTES", [2, 1])
