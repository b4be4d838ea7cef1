"""The service over real HTTP: its answers, its error answers, and what it never reveals."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from dinodeploy import Embedder
from dinodeploy.search import Index
from dinodeploy.serve.access import read_keys
from tests.support.images.hostile_images import many_scans
from tests.support.images.image_files import encoded
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine
from tests.support.processes.live_service import Live, live

KEY = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def index(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dinodeploy.cli.app import make_app

    folder = tmp_path_factory.mktemp("index")
    rows = ["id,label,weight"]
    for name, label in (("chelsea", "cat"), ("rocket", "thing"), ("coffee", "thing")):
        (folder / f"{name}.jpg").write_bytes(encoded(name))
        rows.append(f"{folder}/{name}.jpg,{label},{len(rows)}.5")
    (folder / "labels.csv").write_text("\n".join(rows))
    out = str(folder / "out")
    embed = ["embed", str(folder), "--engine", str(tiny_bundle), "--out", out, "--imgsz", "128,160"]
    embed += ["--outputs", "cls,pooled"]
    make_app()(embed, standalone_mode=False)
    index = ["index", out, "--metadata", str(folder / "labels.csv"), "--output", "pooled"]
    make_app()(index, standalone_mode=False)
    return folder / "out"


@pytest.fixture(scope="module")
def service(tiny_bundle: Path, index: Path) -> Iterator[Live]:
    with live(tiny_bundle, index=index, max_bytes=1 << 20, max_pixels=400_000, max_images=3) as client:
        yield client


# ---- answers -----------------------------------------------------------------------------------


def test_embeddings_equal_those_of_embedder(service: Live, tiny_bundle: Path) -> None:
    files = [encoded("chelsea"), encoded("rocket", (90, 130))]
    answer = service.embed(*files, outputs="cls,patch,pooled").json()
    with Embedder.open(tiny_bundle, threads=1) as embedder:
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
        wanted = embedder.embed(images)
    for row, image in enumerate(answer["images"]):
        for name in ("cls", "patch"):
            np.testing.assert_array_equal(np.float32(image["outputs"][name]), wanted[name][row])
        assert len(image["outputs"]["pooled"]) == 256
    assert [(p["width"], p["height"], p["input"]) for p in answer["images"]] == [
        (120, 90, [256, 256]),
        (90, 130, [256, 256]),
    ]
    assert answer["fingerprint"]["recipe"] == "fp32"


def test_all_body_formats_give_the_same_embedding(service: Live) -> None:
    data = encoded("coffee")
    inline = {"images": [{"base64": base64.b64encode(data).decode()}]}
    answers = [
        service.embed(data),
        service.post("/embed", json=inline),
        service.post("/embed", content=data, headers={"content-type": "image/jpeg"}),
        service.embed(data, encoding="base64"),
    ]
    assert [a.status_code for a in answers] == [200] * 4, answers[1].text
    vectors = [a.json()["images"][0]["outputs"]["cls"] for a in answers]
    assert vectors[0] == vectors[1] == vectors[2]
    packed = np.frombuffer(base64.b64decode(vectors[3]["base64"]), "<f4").reshape(vectors[3]["shape"])
    np.testing.assert_array_equal(packed, np.float32(vectors[0]))


def test_another_input_size(service: Live) -> None:
    answer = service.embed(encoded("china"), outputs="patch", imgsz="96,160").json()
    assert np.shape(answer["images"][0]["outputs"]["patch"]) == (6, 10, 128)


def search(service: Live, name: str = "rocket", **query: Any) -> Any:
    return service.post("/search", files={"files": encoded(name)}, params=query)


def test_search_equals_index_search(service: Live, index: Path) -> None:
    """With the preprocessing and output of the index, which differ from the bundle's defaults."""
    found = search(service, k=2).json()["results"]
    with Index.open(index) as opened:
        hits = opened.search(opened.vector(str(index.parent / "rocket.jpg")), 2)[0]
    assert [(hit["rank"], hit["id"]) for hit in found] == [(hit.rank, hit.id) for hit in hits]
    assert [hit["cosine"] for hit in found] == pytest.approx([hit.cosine for hit in hits], abs=1e-5)
    assert found[0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert (found[0]["width"], found[0]["height"]) == (120, 90)
    assert found[0]["metadata"] == {"label": "thing", "weight": 2.5}


def test_search_with_conditions(service: Live) -> None:
    def names(**query: Any) -> list[str]:
        return [Path(hit["id"]).name for hit in search(service, **query).json()["results"]]

    assert names(filter="label = 'cat'") == ["chelsea.jpg"]
    assert names(filter="weight < 3 and width = 120", text="thing") == ["rocket.jpg"]
    assert names(text="nowhere") == []
    assert names(filter=" or ".join(["weight<3"] * 340), k=1) == ["rocket.jpg"]
    _refused(search(service, filter="label = "), 422, "filter 'label = ': got the end, wanted a text")
    _refused(search(service, filter="colour = 'red'"), 422, "there is no column 'colour'")
    _refused(search(service, filter="(" * 100), 422, "brackets")
    _refused(search(service, filter="x" * 5000), 422, "4096")
    _refused(search(service, text=""), 422, "text")


def test_parallel_searches(service: Live) -> None:
    wanted = search(service).json()
    with ThreadPoolExecutor(8) as pool:
        assert all(answer.json() == wanted for answer in pool.map(lambda _: search(service), range(16)))


def test_thumbnails_are_of_indexed_images_only(service: Live, index: Path) -> None:
    thumbnail = service.get("/thumbnail", params={"id": str(index.parent / "rocket.jpg")})
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).size == (120, 90)
    (index.parent / "other.jpg").write_bytes(encoded("rocket"))
    for id in (index.parent / "other.jpg", index / ".." / "rocket.jpg", "' or '1' = '1"):
        _refused(service.get("/thumbnail", params={"id": str(id)}), 404, "no such image")


def test_facts_and_metrics(service: Live) -> None:
    assert service.get("/health").json() == {"status": "ok"}
    assert service.get("/ready").json() == {"status": "ready"}
    model = service.get("/model").json()
    assert (model["index"], model["embed_dim"], model["limits"]["max_images"]) == (3, 128, 3)
    assert model["index_columns"]["label"] == "text"
    service.embed(encoded("coffee"))
    text = service.get("/metrics").text
    assert re.search(r'dinodeploy_requests_total\{method="POST",route="/embed",status="200"\} \d', text)
    assert re.search(r"dinodeploy_batch_size_count [1-9]", text)


def test_images_of_several_clients_share_a_batch(tiny_bundle: Path) -> None:
    with live(tiny_bundle, max_wait=0.5, max_batch=4) as service, ThreadPoolExecutor(4) as pool:
        data = encoded("coffee")
        answers = list(pool.map(lambda _: service.embed(data), range(4)))
        assert all(answer.status_code == 200 for answer in answers)
        assert "dinodeploy_batch_size_count 1.0" in service.get("/metrics").text


# ---- error answers -----------------------------------------------------------------------------


def _refused(answer: Any, status: int, words: str) -> None:
    """An error answer of one line, with a matching request id."""
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert set(problem) == {"error", "request_id"}
    assert words in problem["error"]
    assert "\n" not in problem["error"]
    assert "Traceback" not in answer.text
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_limits(service: Live) -> None:
    data = encoded("coffee")
    _refused(service.embed(*[data] * 4), 413, "wanted at most 3")
    _refused(service.embed(b"x" * (1 << 21)), 413, "1,048,576 bytes")
    chunks = (b"x" * 65536 for _ in range(40))  # no length announced
    _refused(service.post("/embed", content=chunks), 413, "1,048,576 bytes")
    large = io.BytesIO()
    Image.new("RGB", (1000, 500)).save(large, "PNG")
    _refused(service.embed(large.getvalue()), 413, "wanted at most 400000")


def test_bodies_that_are_no_image(service: Live) -> None:
    _refused(service.embed(b"not a picture"), 422, "not an image")
    _refused(service.embed(encoded("coffee"), encoded("coffee")[:900]), 422, "1.jpg")
    _refused(service.embed(b""), 422, "empty")
    _refused(
        service.post("/embed", content=b"hello", headers={"content-type": "text/plain"}), 415, "text/plain"
    )
    _refused(service.post("/embed"), 415, "none")
    _refused(service.post("/embed", data={"a": "b"}, files={}), 415, "form-urlencoded")
    broken = {"content-type": "multipart/form-data"}
    _refused(service.post("/embed", content=b"--x", headers=broken), 422, "form cannot be read")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "JSON"),
        ("[]", "JSON"),
        ('{"images": []}', "images"),
        ('{"images": [{"base64": "***"}]}', "not base64"),
        ('{"images": [{"base64": "AAAA", "url": "x"}]}', "JSON"),
        ('{"images": [{"url": "https://example.com/a.jpg"}]}', "--allow-urls"),
        ('{"pictures": [{"base64": "AAAA"}]}', "images"),
    ],
)
def test_malformed_json(service: Live, body: str, words: str) -> None:
    answer = service.post("/embed", content=body, headers={"content-type": "application/json"})
    _refused(answer, 422, words)


def test_invalid_parameters(service: Live) -> None:
    data = encoded("coffee")
    _refused(service.embed(data, outputs="cls,logits"), 422, "'logits'")
    _refused(service.embed(data, outputs="cls,cls"), 422, "distinct")
    _refused(service.embed(data, imgsz="100"), 422, "multiple of the patch size")
    _refused(service.embed(data, imgsz="90000"), 422, "at most 4096")
    _refused(service.embed(data, imgsz="-16"), 422, "imgsz")
    _refused(service.embed(data, encoding="xml"), 422, "encoding")
    _refused(service.post("/search", files={"files": data}, params={"k": 0}), 422, "k")
    _refused(service.get("/nothing"), 404, "Not Found")
    answer = service.get("/embed")
    _refused(answer, 405, "Method Not Allowed")
    assert answer.headers["allow"] == "POST"


def test_search_without_an_index_is_404_and_the_rate_limit_is_429(tiny_bundle: Path) -> None:
    with live(tiny_bundle, rate=2.0) as service:
        _refused(search(service), 404, "--index")
        _refused(service.get("/thumbnail", params={"id": "x"}), 404, "--index")
        answers = [service.embed(encoded("coffee")) for _ in range(4)]
        late = next(answer for answer in answers if answer.status_code == 429)
        _refused(late, 429, "2 requests per second")
        assert late.headers["retry-after"] == "1"
        assert service.get("/health").status_code == 200


def test_a_full_queue_is_503_until_it_empties(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with live(tiny_bundle, queue=2, max_batch=1) as service, ThreadPoolExecutor(8) as pool:
        free = threading.Event()
        run = service.service.embedder.run
        monkeypatch.setattr(service.service.embedder, "run", lambda x: (free.wait(20), run(x))[1])
        data = encoded("coffee")
        asked = [pool.submit(service.embed, data) for _ in range(6)]
        while sum(one.done() for one in asked) < 4:
            time.sleep(0.01)
        assert service.get("/health").status_code == 200
        free.set()
        answers = [one.result() for one in asked]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503, 503]
        busy = next(answer for answer in answers if answer.status_code == 503)
        assert busy.headers["retry-after"] == "1"
        assert service.embed(data).status_code == 200


def test_a_request_past_its_time_limit_leaves_the_queue(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live(tiny_bundle, time_limit=0.3, max_batch=1) as service:
        run, free = service.service.embedder.run, threading.Event()
        monkeypatch.setattr(service.service.embedder, "run", lambda x: (free.wait(20), run(x))[1])
        _refused(service.embed(encoded("coffee")), 503, "0.3 s")
        free.set()
        while service.service.pending:
            time.sleep(0.01)


def test_without_decoders_it_is_not_ready(tiny_bundle: Path) -> None:
    with live(tiny_bundle) as service:
        assert service.get("/ready").status_code == 200
        service.service.kill_decoders()
        answer = service.get("/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "no decoder answers")
        assert service.get("/health").status_code == 200


def test_the_work_of_a_client_that_has_gone_is_dropped(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live(tiny_bundle, max_batch=1) as service:
        run, free, runs = service.service.embedder.run, threading.Event(), []
        monkeypatch.setattr(
            service.service.embedder, "run", lambda x: (runs.append(len(x)), free.wait(20), run(x))[2]
        )
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                service.base_url.join("/embed"),
                files=[("files", (str(number), encoded("coffee"))) for number in range(4)],
                timeout=httpx.Timeout(20, read=1.5),
            )
        until = time.monotonic() + 10
        while service.service.active:
            assert time.monotonic() < until
            time.sleep(0.01)
        free.set()
        assert service.embed(encoded("coffee")).status_code == 200
        assert len(runs) == 2  # the one that was running, and the new one
        assert '"status": 408' in service.log.getvalue()


def test_an_internal_error_is_logged_and_not_revealed(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(x: Any) -> Any:
        raise RuntimeError("the secret path /etc/engine")

    with live(tiny_bundle) as service:
        monkeypatch.setattr(service.service.embedder, "run", broken)
        _refused(service.embed(encoded("coffee")), 500, "internal error")
        assert "the secret path" in service.log.getvalue()


def test_images_by_url(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which URLs are allowed is tested in test_fetch; here: a fetched image is embedded like any other."""
    from dinodeploy.serve import service as services

    web = {"https://a.org/cat.jpg": encoded("chelsea")}
    with live(tiny_bundle, allow_urls=True) as service:
        inside = {"images": [{"url": "https://127.0.0.1/cat.jpg"}]}
        _refused(service.post("/embed", json=inside), 422, "not a public address")
        monkeypatch.setattr(services, "fetch", lambda url, max_bytes: web[url])
        fetched = service.post("/embed", json={"images": [{"url": url} for url in web]}).json()
        sent = service.embed(*web.values()).json()
        assert fetched["images"][0]["outputs"] == sent["images"][0]["outputs"]


def test_foreign_hosts_are_refused_and_nothing_redirects(service: Live) -> None:
    for path in ("/", "/model", "/embed/", "/thumbnail?id=x", "/openapi.json", "/metrics"):
        answer = service.get(path, headers={"host": "evil.example"})
        _refused(answer, 421, "--allowed-host")
    assert service.get("/embed/").status_code == 404
    for path in ("/health", "/ready"):  # load balancers name what they like
        assert service.get(path, headers={"host": "evil.example"}).status_code == 200


def test_routes_without_images_read_no_body(service: Live) -> None:
    large = b"x" * (8 << 20)  # above --max-bytes
    wanted = {"GET": (200, 404), "POST": (404, 405)}
    for method, path in itertools.product(wanted, ("/health", "/ready", "/", "/model", "/nothing")):
        try:
            assert service.request(method, path, content=large).status_code in wanted[method]
        except httpx.WriteError:  # answered and closed before all of it was sent
            continue
    lines = [json.loads(line) for line in service.log.getvalue().splitlines()]
    assert max(line.get("received", 0) for line in lines if line.get("path") in ("/model", "/")) == 0


def test_an_answer_that_would_be_too_large_is_refused_before_it_is_computed(tiny_bundle: Path) -> None:
    with live(tiny_bundle, max_answer=1 << 20) as service:
        data = encoded("coffee")
        asked = {"outputs": "patch", "imgsz": "512"}
        _refused(service.embed(*[data] * 3, **asked), 413, "encoding=base64")
        answer = service.embed(data, encoding="base64", **asked)
        assert answer.status_code == 200
        assert "dinodeploy_batch_size_count 1.0" in service.get("/metrics").text
        _refused(service.embed(*[data] * 64, imgsz="1024"), 413, "patches in one request")


def test_a_large_answer_is_streamed_and_complete(service: Live, tiny_bundle: Path) -> None:
    files = [encoded("chelsea"), encoded("rocket")]
    answer = service.embed(*files, outputs="patch,cls", imgsz="512")
    assert answer.headers["transfer-encoding"] == "chunked"
    with Embedder.open(tiny_bundle, threads=1) as embedder:
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
        wanted = embedder.embed(images, imgsz=512)
    for row, image in enumerate(answer.json()["images"]):
        np.testing.assert_array_equal(np.float32(image["outputs"]["patch"]), wanted["patch"][row])


def test_formats_and_memory_are_limited(tiny_bundle: Path) -> None:
    with live(tiny_bundle, formats=("JPEG",), decode_memory=64) as service:
        png, jpeg = (encoded("coffee", format=name) for name in ("PNG", "JPEG"))
        _refused(service.embed(png), 422, "PNG is not accepted here, wanted one of JPEG")
        assert service.embed(jpeg).status_code == 200
        _refused(service.embed(many_scans(1, 6500, "RGB")), 413, "--decode-memory")
        assert service.get("/model").json()["limits"]["formats"] == ["JPEG"]


# ---- API keys ----------------------------------------------------------------------------------


def test_keys(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# ours\nalice {KEY}\n")
    with live(tiny_bundle, keys=read_keys(tmp_path / "keys")) as service:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {KEY}"},
            {"x-api-key": "é"},
        ):
            encoded_headers = {name: value.encode() for name, value in headers.items()}
            answer = service.get("/model", headers=encoded_headers)
            _refused(answer, 401, "Bearer KEY")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert service.get("/metrics").status_code == 401
        for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            assert service.get("/model", headers=headers).status_code == 200
        for path in ("/", "/health", "/ready", "/openapi.json"):
            assert service.get(path).status_code == 200
        service.get("/model", params={"api_key": KEY}, headers={"x-api-key": KEY})
        until = time.monotonic() + 10  # a line is written after its answer was sent
        while "/openapi.json" in service.log.getvalue().splitlines()[-1] and time.monotonic() < until:
            time.sleep(0.01)
        log = service.log.getvalue()
        assert KEY not in log
        lines = [json.loads(line) for line in log.splitlines()]
        assert lines[-1]["client"] == "alice"
        assert lines[-1]["path"] == "/model"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "has no key"), ("# only\n", "has no key"), ("short", "line 1"), ("a b " + KEY, "line 1")],
)
def test_invalid_key_files(
    text: str, words: str, tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    (tmp_path / "keys").write_text(text)
    ran = run("serve", tiny_bundle, "--api-key-file", tmp_path / "keys")
    assert ran.code == 2
    assert words in ran.error
    assert KEY not in ran.error


def test_every_answer_has_security_headers(service: Live) -> None:
    for answer in (service.get("/"), service.get("/nothing"), service.get("/health"), service.embed(b"x")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
    assert "unsafe" not in service.get("/").headers["content-security-policy"]


# ---- start -------------------------------------------------------------------------------------


def test_an_index_of_another_model_is_refused(index: Path, tmp_path: Path, run: CommandLine) -> None:
    from tests.support.tiny_models import export_tiny

    other = export_tiny(tmp_path / "other", seed=1).root
    ran = run("serve", other, "--index", index)
    assert ran.code == 2
    assert "was not made by" in ran.error
    assert "weights_sha256: " in ran.error


def test_a_store_without_an_index_names_the_command(
    index: Path, tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    shutil.copytree(index, tmp_path / "out")
    ran = run("serve", tiny_bundle, "--index", tmp_path / "out")
    assert ran.code == 2
    assert f"dinodeploy index {tmp_path / 'out'}" in ran.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", "0"), "--workers is 0"),
        (("--queue", "0"), "--queue is 0"),
        (("--queue", "7"), "wanted at least one batch, 8"),
        (("--rate", "0"), "--rate is 0"),
        (("--max-wait-ms", "nan"), "--max-wait-ms is nan"),
        (("--formats", "JPEG,XPM"), "wanted some of JPEG, PNG"),
        (("--max-inflight", "5"), "--max-inflight is 5"),
        (("--decode-seconds", "0"), "--decode-seconds is 0"),
        (("--port", "70000"), "--port is 70000"),
        (("--index", "nowhere"), "nowhere"),
    ],
)
def test_invalid_options(options: tuple[str, ...], words: str, tiny_bundle: Path, run: CommandLine) -> None:
    ran = run("serve", tiny_bundle, *options)
    assert ran.code == 2
    assert words in ran.error


def test_without_the_extra_the_exit_code_is_4(
    tiny_bundle: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("dinodeploy.serve.server")]:
        monkeypatch.delitem(sys.modules, name)
    ran = run("serve", tiny_bundle)
    assert ran.code == 4
    assert "pip install 'dinodeploy[serve]'" in ran.error


def test_without_ray_serve_the_exit_code_is_4(
    tiny_bundle: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray.serve", None)
    ran = run("serve", tiny_bundle, "--ray")
    assert ran.code == 4
    assert "pip install 'ray[serve]'" in ran.error


def test_two_input_sizes_in_parallel(tiny_bundle: Path) -> None:
    """Images of different input sizes are never in one batch."""
    buffer = io.BytesIO()
    photograph("astronaut").save(buffer, "JPEG")
    with live(tiny_bundle, max_wait=0.1) as service, ThreadPoolExecutor(4) as pool:
        sizes = ["64", "96,64", "64", "96,64"]
        answers = list(pool.map(lambda s: service.embed(buffer.getvalue(), outputs="patch", imgsz=s), sizes))
        shapes = [np.shape(a.json()["images"][0]["outputs"]["patch"])[:2] for a in answers]
        assert shapes == [(4, 4), (6, 4), (4, 4), (6, 4)]
