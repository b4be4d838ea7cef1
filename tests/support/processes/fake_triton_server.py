"""The Triton client against a stand-in that speaks the server's gRPC protocol, in a process of its own.

    python -m tests.support.processes.fake_triton_server BUNDLE IMAGE…

Prints what the example prints, then what the stand-in was asked as one line of JSON. gRPC's native code does
not live beside everything else that a long run of tests has loaded: it once took its worker down.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dinodeploy import Embedder
from dinodeploy.images.open import open_image
from examples import triton_client


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers with what the embedder says."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.asked: list[Any] = []

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        (binary,) = request.raw_input_contents
        pictures = []
        while binary:  # each element: four bytes of length, then its bytes
            size = int.from_bytes(binary[:4], "little")
            pictures.append(open_image(binary[4 : 4 + size]))
            binary = binary[4 + size :]
        name = request.outputs[0].name
        values: np.ndarray[Any, Any] = self.embedder.embed(pictures)[name]
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name=name, datatype="FP32", shape=values.shape)
        answer.raw_output_contents.append(values.astype("<f4").tobytes())
        return answer


def main() -> None:
    bundle, *pictures = sys.argv[1:]
    with Embedder.open(bundle, threads=1) as embedder:
        stand_in = StandIn(embedder)
        server = grpc.server(ThreadPoolExecutor(1))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(stand_in, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        sys.argv[1:] = ["tiny", *pictures, "--url", f"127.0.0.1:{port}", "--bundle", bundle]
        triton_client.main()
        server.stop(None).wait()
    (request,) = stand_in.asked
    (image,) = request.inputs
    print(json.dumps([request.model_name, image.name, image.datatype, list(image.shape)]))


if __name__ == "__main__":
    main()
