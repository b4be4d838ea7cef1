"""The Triton client against a stand-in that speaks the server's HTTP protocol (KServe v2, binary tensors)."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dinodeploy import Embedder
from tests.image_files import encoded

pytest.importorskip("tritonclient.http", reason="the client comes with the [triton] extra")


class _Server(HTTPServer):
    embedder: Embedder
    asked: list[dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers["Inference-Header-Content-Length"])
        header, binary = json.loads(body[:length]), body[length:]
        self.server.asked.append({"path": self.path, **header})
        files = []
        while binary:  # each element: four bytes of length, then its bytes
            size = int.from_bytes(binary[:4], "little")
            files.append(binary[4 : 4 + size])
            binary = binary[4 + size :]
        name = header["outputs"][0]["name"]
        values = self.server.embedder.embed(files)[name].astype("<f4")
        output = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        output["parameters"] = {"binary_data_size": values.nbytes}
        head = json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()
        self.send_response(200)
        self.send_header("Inference-Header-Content-Length", str(len(head)))
        self.send_header("Content-Length", str(len(head) + values.nbytes))
        self.end_headers()
        self.wfile.write(head + values.tobytes())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tiny_bundle: Path) -> Iterator[_Server]:
    with Embedder.open(tiny_bundle, threads=1) as embedder:
        server = _Server(("127.0.0.1", 0), _Handler)
        server.embedder, server.asked = embedder, []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.filterwarnings("ignore")  # of gevent, on which the client stands
def test_the_client_asks_as_the_repository_wants_it(
    server: _Server,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from examples import triton_client

    paths = [tmp_path / f"{name}.jpg" for name in ("chelsea", "rocket")]
    for path in paths:
        path.write_bytes(encoded(path.stem))
    url = f"127.0.0.1:{server.server_port}"
    command = ["tiny", *map(str, paths), "--url", url, "--bundle", str(tiny_bundle)]
    monkeypatch.setattr(sys, "argv", ["triton_client.py", *command])
    triton_client.main()
    out = capsys.readouterr().out
    assert "chelsea.jpg: cls [128], norm" in out
    assert out.rstrip().endswith("0.00e+00")
    (asked,) = server.asked
    assert asked["path"].startswith("/v2/models/tiny/infer")
    (image,) = asked["inputs"]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "BYTES", [2, 1])
