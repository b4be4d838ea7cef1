"""What a body of /v1/embeddings asks for: no text is taken for an image, and no image for a text."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.serve.openai.inputs import EmbeddingsRequest, read_embeddings_request
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Question
from dinodeploy.serve.settings import Settings
from tests.support.images.image_files import encoded

JSON = {"content-type": "application/json; charset=utf-8"}
SETTINGS = Settings(Path(), max_images=4)
DATA = encoded("coffee")
PLAIN = base64.b64encode(DATA).decode()
URL = f"data:image/jpeg;base64,{PLAIN}"
WEB = "https://a.org/cat.jpg"


def read(texts: bool = False, settings: Settings = SETTINGS, **fields: Any) -> EmbeddingsRequest:
    body = json.dumps({"model": "m", **fields}).encode()
    return read_embeddings_request(body, JSON, settings, texts)


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize(
    "given",
    [
        URL,
        f"  {URL}\n",
        URL.replace("image/jpeg", ""),
        URL.replace("image/jpeg", "application/octet-stream"),
        URL.replace("image/jpeg", "IMAGE/PNG;charset=x"),
        PLAIN,
        PLAIN.rstrip("="),
        base64.urlsafe_b64encode(DATA).decode(),
        base64.encodebytes(DATA).decode(),
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "image_url", "image_url": {"url": URL, "detail": "auto"}},
        {"type": "input_image", "image_url": URL, "detail": "low"},
        {"type": "image_base64", "image_base64": URL},
        {"type": "image", "image": PLAIN},
        {"image": URL},
        {"image_url": {"url": URL}},
        {"base64": PLAIN},
        {"url": URL},
    ],
)
def test_every_shape_of_an_image(given: Any, texts: bool) -> None:
    question = Question("input 0", DATA)
    assert read(texts, input=given).inputs == (question,)
    assert read(texts, input=[given, given]).inputs == (question, Question("input 1", DATA))
    content = [given] if isinstance(given, dict) else given
    assert read(texts, messages=[{"role": "user", "content": content}]).inputs == (question,)


@pytest.mark.parametrize("format_", ["PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_plain_base64_of_each_format_is_an_image(format_: str) -> None:
    data = encoded("coffee", format=format_)
    assert read(True, input=base64.b64encode(data).decode()).inputs == (Question("input 0", data),)


def test_texts() -> None:
    texts = ("a cat", "Qk", "4 cats: {red, blue}", "über 猫 😀", "x" * 47, "don't", " a\ncat ")
    for text in texts:
        assert read(True, input=text).inputs == (text,)
        assert read(False, input=text).inputs == (text,), "the route refuses it"
        assert read(True, input={"type": "text", "text": text}).inputs == (text,)
    assert read(True, input=[{"text": "a"}, {"type": "input_text", "text": "b"}]).inputs == ("a", "b")
    assert read(True, messages=[{"role": "user", "content": "a cat"}]).inputs == ("a cat",)


def test_modality_decides() -> None:
    word = "x" * 60
    assert read(True, input=[word, WEB], modality="text").inputs == (word, WEB)
    start = PLAIN[:900]
    assert read(True, input=start, modality="text").inputs == (start,)
    with pytest.raises(Refused, match="input 0: neither a data URL, an https URL nor base64"):
        read(True, input="a cat!", modality="image")
    assert isinstance(read(True, input=word, modality="image").inputs[0], Question)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": "x" * 48}, "may be a text, or base64 of an unknown kind of image"),
        ({"input": "P6 " + base64.b64encode(b"P6 9 9 255" * 9).decode()}, "may be a text"),
        ({"input": "data: is the new oil"}, "begins with data: but is no base64 data URL"),
        ({"input": "data:image/svg+xml;utf8,<svg/>"}, "begins with data: but is no base64 data URL"),
        ({"input": URL.replace("image/jpeg", "text/html")}, "of type 'text/html'; wanted an image type"),
        ({"input": WEB}, "--allow-urls"),
        ({"input": ""}, "input 0: is empty"),
        ({"input": ["a", " "]}, "input 1: is empty"),
        ({"input": "a" * 30 + " b" * 500}, "wanted at most 1,000"),
        ({"input": 5}, "got token ids"),
        ({"input": [[1, 2]]}, "got token ids"),
        ({"input": True}, "input 0: got a bool"),
        ({"input": 1.5}, "input 0: got a float"),
        ({"input": {}}, "input 0: wanted"),
        ({"input": {"type": "image_url"}}, "input 0: wanted"),
        ({"input": {"type": "text", "image_url": URL}}, "input 0: wanted"),
        ({"input": {"type": ["text"], "text": "a"}}, "input 0: wanted"),
        ({"input": {"type": None, "text": "a"}}, "input 0: wanted"),
        ({"input": {"text": "a", "image": URL}}, "input 0: wanted"),
        ({"input": {"audio": "a"}}, "input 0: wanted"),
        ({"input": {"type": "text", "text": {"url": "a"}}}, "text: wanted a string"),
        ({"input": {"type": "image_url", "image_url": {"path": "a"}}}, "image_url: wanted a string"),
        ({"input": "a", "messages": []}, "wanted one of input and messages"),
        ({}, "wanted one of input and messages"),
        ({"messages": []}, "got 0 parts"),
        ({"messages": "a"}, "messages: wanted a list"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}, {"image": URL}]}]}, "got 2 parts"),
        ({"messages": [{"content": "a"}, {"content": "b"}]}, "got 2 parts"),
        ({"messages": [{"content": "a", "name": "b"}]}, "'name' is unknown"),
        ({"input": "a", "dimensions": 0}, "dimensions: got 0"),
        ({"input": "a", "dimensions": True}, "dimensions: got True"),
        ({"input": "a", "dimensions": "12"}, "dimensions: got 12"),
        ({"input": "a", "encoding_format": ["float"]}, "wanted float or base64"),
        ({"input": "a", "truncate": "END"}, "'truncate' is unknown; wanted some of model, input"),
        ({"input": "a", "user": 5}, "user: wanted a string"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refused:
        read(True, **fields)
    assert words in refused.value.message
    assert refused.value.status == 422
    assert refused.value.param in (*fields, "input", "messages")


def test_an_empty_part_of_a_conversation_is_not_an_input() -> None:
    """Servers of CLIP want an empty text beside an image."""
    content = [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": ""}]
    assert read(messages=[{"role": "user", "content": content}]).inputs == (Question("input 0", DATA),)


def test_urls_where_the_service_fetches_them() -> None:
    settings = Settings(Path(), allow_urls=True)
    for given in (WEB, f" {WEB} ", {"url": WEB}, {"type": "image_url", "image_url": {"url": WEB}}):
        assert read(True, settings, input=given).inputs == (Question("input 0", url=WEB),)


def test_options_and_nulls() -> None:
    asked = read(input=URL, encoding_format="base64", dimensions=8, normalize=False, user="me")
    assert (asked.model, asked.numbers, asked.dimensions, asked.normalize) == ("m", "base64", 8, False)
    nulls = dict.fromkeys(("encoding_format", "dimensions", "normalize", "user", "modality", "messages"))
    assert read(input=URL, **nulls) == EmbeddingsRequest("m", (Question("input 0", DATA),))


def test_texts_may_have_commas_and_brackets() -> None:
    """Only structure outside of strings counts."""
    text = 'a, b: {c} [d] \\" ' * 50
    assert read(True, input=[text] * 4).inputs == (text,) * 4
    assert read(True, input=text, user=",{" * 1_500_000).inputs == (text,), "a string of several blocks"
    with pytest.raises(Refused, match="the limit for 4 images") as refused:
        read(True, input=[{}] * 200)
    assert refused.value.status == 413


def test_hostile_prefixes_cost_little() -> None:
    before = time.perf_counter()
    for given in ("data:" + ";" * 200 + " " * 4_000_000, " " * 4_000_000, "https://" + "\\" * 2_000_000):
        with pytest.raises(Refused):
            read(True, input=given)
    assert time.perf_counter() - before < 2
