"""/v1 with the real `openai` client: the embedder's bits, and the exception class of each error."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy import Embedder
from dinodeploy.pipeline.pooling import pick
from dinodeploy.serve import guard
from dinodeploy.serve.access import read_keys
from dinodeploy.store.dtypes import unit_length
from tests.support.images.hostile_images import many_scans
from tests.support.images.image_files import encoded
from tests.support.processes.live_service import Live, live

openai = pytest.importorskip("openai")
KEY = "0123456789abcdef-secret"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
CHELSEA, ROCKET = encoded("chelsea"), encoded("rocket", (90, 130))


def data_url(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def client_of(service: Live, key: str = "unused") -> Any:
    return openai.OpenAI(base_url=str(service.base_url.join("/v1")), api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Live]:
    limits = {"max_bytes": 1 << 20, "max_pixels": 400_000, "max_images": 4}
    with live(tiny_bundle, served_model_name="dinov3", **limits) as client:
        yield client


@pytest.fixture(scope="module")
def client(service: Live) -> Iterator[Any]:
    with client_of(service) as client:
        yield client


@pytest.fixture(scope="module")
def wanted(tiny_bundle: Path) -> dict[str, Any]:
    """The outputs of CHELSEA and ROCKET."""
    with Embedder.open(tiny_bundle, threads=1) as embedder:
        outputs = embedder.embed([CHELSEA, ROCKET])
    return pick(outputs, ("cls", "pooled", "mean_patch"))


def test_vectors_are_the_embedders_bits(client: Any, wanted: dict[str, Any]) -> None:
    """The client asks for base64 unless told otherwise, and decodes it."""
    inputs = [data_url(CHELSEA), data_url(ROCKET)]
    for model, output in (("dinov3", "cls"), ("dinov3:cls", "cls"), ("dinov3:pooled", "pooled")):
        for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            answer = client.embeddings.create(model=model, input=inputs, **options)
            if options.get("encoding_format") == "base64":
                rows: Any = [np.frombuffer(base64.b64decode(one.embedding), "<f4") for one in answer.data]
            else:
                rows = [np.float32(one.embedding) for one in answer.data]
            np.testing.assert_array_equal(rows, unit_length(wanted[output])[0])
            assert (answer.object, answer.model) == ("list", model)
            assert [(one.object, one.index) for one in answer.data] == [("embedding", 0), ("embedding", 1)]
    raw = client.embeddings.create(model="dinov3:mean_patch", input=inputs, extra_body={"normalize": False})
    np.testing.assert_array_equal([np.float32(one.embedding) for one in raw.data], wanted["mean_patch"])
    assert raw.usage.prompt_tokens == raw.usage.total_tokens == 2 * (1 + 4 + 16 * 16)


def test_many_clients_share_batches(tiny_bundle: Path, wanted: dict[str, Any]) -> None:
    """The asynchronous client; sixteen requests of one image, and one batch for four of them."""

    async def ask(url: str) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            asked = (
                client.embeddings.create(model="dinov3", input=data_url((CHELSEA, ROCKET)[number % 2]))
                for number in range(16)
            )
            return await asyncio.gather(*asked)

    with live(tiny_bundle, served_model_name="dinov3", max_wait=0.5, max_batch=4) as service:
        answers = asyncio.run(ask(str(service.base_url.join("/v1"))))
        rows = unit_length(wanted["cls"])[0]
        for number, answer in enumerate(answers):
            np.testing.assert_allclose(answer.data[0].embedding, rows[number % 2], atol=1e-6)
        assert "dinodeploy_batch_size_count 4.0" in service.get("/metrics").text


def test_models(client: Any, service: Live) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["dinov3", "dinov3:cls", "dinov3:pooled", "dinov3:mean_patch"]
    assert [model.dimensions for model in models] == [128, 128, 256, 128]
    model = client.models.retrieve("dinov3:pooled")
    assert (model.object, model.owned_by, model.output) == ("model", "dinodeploy", "pooled")
    assert (model.modalities, model.fingerprint["recipe"]) == (["image"], "fp32")
    assert time.time() - 86400 < model.created < time.time() + 60
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("other/model")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("options", "error", "param", "words"),
    [
        ({"model": "clip"}, "NotFoundError", "model", "'clip' is not served here; there is dinov3, "),
        ({"model": 5}, "BadRequestError", "model", "wanted a string"),
        (
            {"input": "a cat on a sofa"},
            "BadRequestError",
            "input",
            "and dinov3 embeds images only",
        ),
        ({"input": []}, "BadRequestError", "input", "an empty list"),
        ({"input": [data_url(CHELSEA)] * 5}, "APIStatusError", "input", "5 inputs in one request"),
        ({"input": [""] * 10_000}, "APIStatusError", None, "the limit for 4 images"),
        ({"input": [1, 2, 3]}, "BadRequestError", "input", "input 0: got token ids"),
        ({"input": [data_url(CHELSEA), "x"]}, "BadRequestError", "input", "input 1 is a text"),
        ({"input": [data_url(CHELSEA), None]}, "BadRequestError", "input", "input 1: got a NoneType"),
        ({"input": "https://a.org/cat.jpg"}, "BadRequestError", "input", "--allow-urls"),
        ({"input": data_url(CHELSEA, "text/html")}, "BadRequestError", "input", "wanted an image type"),
        ({"input": data_url(CHELSEA[:900])}, "BadRequestError", "input", "input 0: "),
        ({"input": data_url(SVG, "image/svg+xml")}, "BadRequestError", "input", "input 0: not an image"),
        ({"input": "data:image/svg+xml,<svg/>"}, "BadRequestError", "input", "is no base64 data URL"),
        ({"input": "data:image/png;base64,****"}, "BadRequestError", "input", "neither a data URL"),
        ({"input": "A" * 900_000}, "BadRequestError", "input", "input 0: not an image"),
        ({"input": data_url(b"x" * (1 << 20))}, "APIStatusError", None, "1,048,576 bytes"),
        ({"input": "😀 ünï"}, "BadRequestError", "input", "is a text"),
        ({"dimensions": 64}, "BadRequestError", "dimensions", "the vectors of dinov3 have 128 numbers"),
        ({"dimensions": -1}, "BadRequestError", "dimensions", "got -1"),
        ({"encoding_format": "int8"}, "BadRequestError", "encoding_format", "wanted float or base64"),
        ({"extra_body": {"stream": True}}, "BadRequestError", "stream", "'stream' is unknown"),
        ({"extra_body": {"normalize": "yes"}}, "BadRequestError", "normalize", "wanted true or false"),
        ({"extra_body": {"modality": "audio"}}, "BadRequestError", "modality", "wanted image or text"),
    ],
)
def test_errors_raise_the_clients_exceptions(
    client: Any, options: dict[str, Any], error: str, param: str | None, words: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(**{"model": "dinov3", "input": data_url(CHELSEA), **options})
    assert type(refused.value).__name__ == error
    assert refused.value.status_code in (400, 404, 413)
    assert words in refused.value.body["message"], refused.value.body
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")
    assert refused.value.request_id


def test_bombs(client: Any) -> None:
    large = io.BytesIO()
    Image.new("RGB", (1000, 500)).save(large, "PNG")
    for data in (large.getvalue(), many_scans(1, 6500, "RGB")):
        with pytest.raises(openai.APIStatusError) as refused:
            client.embeddings.create(model="dinov3", input=data_url(data))
        assert refused.value.status_code == 413
        assert refused.value.param == "input"
    assert client.embeddings.create(model="dinov3", input=data_url(CHELSEA)).data


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"{", "application/json", 400, "not valid JSON"),
        (b"[]", "application/json", 400, "wanted an object"),
        (b'"\xff"', "application/json", 400, "not valid JSON"),
        (b'{"model": "dinov3", "model": "dinov3"}', "application/json", 400, "given twice"),
        (b'{"model": "dinov3"}', "application/json", 400, "wanted one of input and messages"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "wanted application/json"),
        (CHELSEA, "image/jpeg", 415, "wanted application/json"),
        (b"", "", 415, "a body of type none"),
    ],
)
def test_bodies_that_are_no_request(service: Live, body: bytes, kind: str, status: int, words: str) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = service.post("/v1/embeddings", content=body, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert words in answer.json()["error"]["message"]


def test_routes_that_are_not_there(service: Live) -> None:
    for method, path, status in (
        ("POST", "/v1/chat/completions", 404),
        ("GET", "/v1/embeddings", 405),
        ("GET", "/v1", 404),
    ):
        answer = service.request(method, path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    assert service.get("/v1/embeddings").headers["allow"] == "POST"


def test_keys_and_rates(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    settings = {"keys": read_keys(tmp_path / "keys"), "rate": 3.0, "served_model_name": "facebook/dinov3"}
    with live(tiny_bundle, **settings) as service:
        with client_of(service, "wrong") as client, pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
        with client_of(service, KEY) as client:
            name = client.models.list().data[0].id
            assert client.models.retrieve(name).id == "facebook/dinov3", "a name with a slash"
            ask = partial(client.embeddings.create, model=name, input=data_url(CHELSEA))
            with pytest.raises(openai.RateLimitError) as limited:
                [ask() for _ in range(5)]
        assert (limited.value.code, limited.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert limited.value.response.headers["retry-after"] == "1"
        assert KEY not in service.log.getvalue()


def test_a_busy_service(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with live(tiny_bundle, queue=1, max_batch=1) as service, ThreadPoolExecutor(4) as pool:
        free, run = threading.Event(), service.service.embedder.run
        monkeypatch.setattr(service.service.embedder, "run", lambda x: (free.wait(20), run(x))[1])
        with client_of(service) as client:
            ask = lambda _: client.embeddings.create(model="custom", input=data_url(CHELSEA))  # noqa: E731
            asked = [pool.submit(ask, number) for number in range(4)]
            while sum(one.done() for one in asked) < 3:
                time.sleep(0.01)
            free.set()
            errors = [one.exception() for one in asked if one.exception() is not None]
        assert len(errors) == 3
        assert all(isinstance(error, openai.InternalServerError) for error in errors)
        assert {error.status_code for error in errors} == {503}  # type: ignore[union-attr]


def test_a_slow_client(service: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    with socket.create_connection((service.base_url.host, service.base_url.port)) as raw:  # type: ignore[arg-type]
        raw.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 99\r\n\r\n{"model"'
        )
        answer = raw.recv(4096)
        answer += raw.recv(4096) if b"\r\n\r\n{" not in answer else b""
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"type": "invalid_request_error"' in answer


def test_a_client_that_sends_all_of_a_large_body_gets_its_answer(service: Live) -> None:
    """It reads only afterwards: a connection closed meanwhile would be reset, and the answer lost."""
    size = 16 << 20
    with socket.create_connection((service.base_url.host, service.base_url.port)) as raw:  # type: ignore[arg-type]
        raw.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % size
        )
        for _ in range(size >> 18):
            raw.sendall(b" " * (1 << 18))
            time.sleep(0.002)
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_an_internal_error_is_not_revealed(service: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(x: Any) -> Any:
        raise RuntimeError("the secret path /etc/engine")

    monkeypatch.setattr(service.service.embedder, "run", broken)
    with client_of(service) as client, pytest.raises(openai.InternalServerError) as refused:
        client.embeddings.create(model="dinov3", input=data_url(CHELSEA))
    assert refused.value.body == {
        "message": "internal error; see the log",
        "type": "server_error",
        "param": None,
        "code": None,
    }


# ---- texts -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(words_bundle: Path) -> Iterator[Live]:
    with live(words_bundle, served_model_name="words", max_images=8) as client:
        yield client


def test_texts_and_images_in_one_request(words: Live, words_bundle: Path) -> None:
    with Embedder.open(words_bundle, threads=1) as embedder:
        text = embedder.encode_text("a red circle", normalize=True)
        image = embedder.encode(CHELSEA, output="image_embedding", normalize=True)
    with client_of(words) as client:
        models = client.models.list().data
        assert (models[0].output, models[0].modalities) == ("image_embedding", ["image", "text"])
        answer = client.embeddings.create(
            model="words", input=["a red circle", data_url(CHELSEA), {"type": "text", "text": "a red circle"}]
        )
        rows = [np.float32(one.embedding) for one in answer.data]
        np.testing.assert_array_equal(rows[0], text)
        np.testing.assert_array_equal(rows[1], image)
        np.testing.assert_array_equal(rows[2], text)
        alone = client.embeddings.create(model="words", input="a red circle").usage
        pair = client.embeddings.create(model="words", input=["a red circle", "a red circle"]).usage
        assert 3 < alone.prompt_tokens == pair.prompt_tokens // 2 < 12
        unclear = base64.b64encode(bytes(range(120))).decode()
        with pytest.raises(openai.BadRequestError, match="may be a text, or base64"):
            client.embeddings.create(model="words", input=unclear)
        with pytest.raises(openai.BadRequestError, match="wanted at most 1,000"):
            client.embeddings.create(model="words", input="word " * 201)


def test_a_text_bundle_without_its_tokenizer_says_what_is_missing(
    words: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.testclient import TestClient

    from dinodeploy.serve.app import create_app

    monkeypatch.setattr(words.service, "words", None)
    client = TestClient(create_app(words.service), base_url="http://localhost")
    answer = client.post("/v1/embeddings", json={"model": "words", "input": "a red circle"})
    assert answer.status_code == 400
    assert "pip install 'dinodeploy[text]'" in answer.json()["error"]["message"]
