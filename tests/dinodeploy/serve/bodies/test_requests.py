"""Request bodies: base64 as clients write it, and JSON whose cost is bounded before it is parsed."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
from pathlib import Path

import pytest

from dinodeploy.images.base64_text import decode_base64
from dinodeploy.serve.bodies.requests import read_questions
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.settings import Settings

DATA = bytes(range(256)) * 3 + b"\xfb\xff\xfe"  # its base64 has + and /
TEXT = base64.b64encode(DATA).decode()
JSON = {"content-type": "application/json"}
SETTINGS = Settings(Path())


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        base64.encodebytes(DATA).decode(),  # a line break after 76 characters
        TEXT.replace("A", "A\r\n", 5),
        f"data:image/jpeg;base64,{TEXT}",
        f" DATA:image/png;charset=x;base64,\n{TEXT}\n",
        f"data:;base64,{TEXT}".replace("+", "%2B").replace("/", "%2F"),
        base64.urlsafe_b64encode(DATA).decode(),
        base64.urlsafe_b64encode(DATA + b"x").decode().rstrip("="),
        base64.urlsafe_b64encode(DATA + b"xy").decode().rstrip("="),
    ],
)
def test_base64_as_clients_write_it(text: str) -> None:
    assert decode_base64(text)[: len(DATA)] == DATA
    body = json.dumps({"image": {"base64": text}}).encode()
    assert read_questions(body, JSON, SETTINGS, "image")[0].data[: len(DATA)] == DATA


@pytest.mark.parametrize("text", ["***", "AAAAA", "data:image/png,AAAA", "é" * 4, "AA=A", "data:;base64"])
def test_what_is_not_base64(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode_base64(text)


@pytest.mark.parametrize(
    "body",
    [
        b'{"images":[' + b",".join([b"1"] * 4_000_000) + b"]}",
        b'{"images":[' + b",".join([b"{}"] * 3_000_000) + b"]}",
        b'{"images":' + b"[" * 8_000_000,
        b'{"images":[{"base64":' + b'{"a":' * 1_500_000,
        b'{"images":[{' + b'"a":1,' * 1_300_000 + b'"a":1}]}',
        b'{"images":[{"base64": ' + b"1" * 8_000_000 + b"}]}",
        b'{"images":[{"base64": "' + b"*" * 8_000_000 + b'"}]}',
        b'{"images":[{"base64": "\xff' + b"A" * 8_000_000 + b'"}]}',
    ],
    ids=["numbers", "objects", "depth", "nested objects", "keys", "digits", "stars", "not UTF-8"],
)
def test_hostile_json_costs_little(body: bytes) -> None:
    tracemalloc.start()
    before = time.perf_counter()
    with pytest.raises(Refused) as refused:
        read_questions(body, JSON, SETTINGS, "images")
    seconds = time.perf_counter() - before
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.status in (413, 422)
    assert len(refused.value.message) < 400
    assert seconds < 2
    assert peak < 4 * len(body)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"images": [1]}, "image 0: wanted"),
        ({"images": [{}]}, "image 0: wanted"),
        ({"images": [{"base64": 1}]}, "wanted a text"),
        ({"images": [{"file": "x"}]}, "got 'file'"),
        ({"images": {"base64": TEXT}}, "wanted a list"),
        ({"images": [{"base64": TEXT}], "x": 1}, "images only"),
        ({"images": [{"base64": TEXT}, {"base64": "*"}, 1]}, "image 1: not base64"),
    ],
)
def test_the_first_error_is_named(value: object, words: str) -> None:
    with pytest.raises(Refused, match=words):
        read_questions(json.dumps(value).encode(), JSON, SETTINGS, "images")


def test_too_many_images_and_compressed_bodies() -> None:
    body = json.dumps({"images": [{"base64": TEXT}] * 65}).encode()
    with pytest.raises(Refused, match="at most 64") as refused:
        read_questions(body, JSON, SETTINGS, "images")
    assert refused.value.status == 413
    with pytest.raises(Refused, match="without compression") as refused:
        read_questions(body, {**JSON, "content-encoding": "gzip"}, SETTINGS, "images")
    assert refused.value.status == 415


def test_a_form_with_many_parts_or_long_headers_is_refused() -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nx\r\n'
    field = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n'
    for body in (part * 100_000, field * 100_000, part.replace(b"form-data", b"x" * 4_000_000)):
        before = time.perf_counter()
        with pytest.raises(Refused, match="form cannot be read"):
            read_questions(body + b"--b--\r\n", headers, SETTINGS, "images")
        assert time.perf_counter() - before < 2
