"""The pages at / and /docs: complete, offline, and under a policy that allows only what is in them."""

from __future__ import annotations

import base64
import hashlib
import io
import re

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from dinodeploy.serve.bodies.pages import add_pages

PAGES = ("/", "/docs")


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI(title="t", description="About <it>.", docs_url=None, openapi_url=None)

    @app.post("/embed")
    async def embed(k: int = 3) -> dict[str, str]:
        """Embed <images>."""
        return {}

    add_pages(app)
    return TestClient(app)


@pytest.mark.parametrize("path", PAGES)
def test_nothing_comes_from_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", page.text) == []
    policy = page.headers["content-security-policy"]
    for tag in ("style", "script"):
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_docs_describe_the_routes(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "Embed &lt;images&gt;." in page
    assert "About &lt;it&gt;." in page
    assert "integer, default 3" in page
    assert client.get("/openapi.json").json()["paths"].keys() == {"/embed"}


def test_the_sample_is_a_small_photograph(client: TestClient) -> None:
    sample = client.get("/sample.jpg")
    assert sample.headers["content-type"] == "image/jpeg"
    assert len(sample.content) < 30_000
    assert Image.open(io.BytesIO(sample.content)).size == (400, 266)
