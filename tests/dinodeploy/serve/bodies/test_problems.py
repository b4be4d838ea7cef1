"""Error answers: ours, and OpenAI's under /v1."""

from __future__ import annotations

import json

import pytest

from dinodeploy.serve.bodies.problems import is_openai, problem
from dinodeploy.serve.refused import Refused


def test_ours() -> None:
    status, headers, body = problem("/embed", Refused(422, "no\n image", param="input", code="x"), "id1")
    assert (status, json.loads(body)) == (422, {"error": "no image", "request_id": "id1"})
    assert headers == {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("refused", "status", "kind", "code"),
    [
        (Refused(422, "m", param="input"), 400, "invalid_request_error", None),
        (Refused(401, "m"), 401, "invalid_request_error", "invalid_api_key"),
        (Refused(404, "m", code="model_not_found"), 404, "invalid_request_error", "model_not_found"),
        (Refused(413, "m"), 413, "invalid_request_error", None),
        (Refused(429, "m", 3), 429, "rate_limit_error", "rate_limit_exceeded"),
        (Refused(500, "m"), 500, "server_error", None),
        (Refused(503, "m", 1), 503, "server_error", None),
    ],
)
def test_openai(refused: Refused, status: int, kind: str, code: str | None) -> None:
    got, headers, body = problem("/v1/embeddings", refused, "id1")
    assert got == status
    assert json.loads(body) == {"error": {"message": "m", "type": kind, "param": refused.param, "code": code}}
    assert headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert headers.get("retry-after") == (None if refused.retry_after is None else str(refused.retry_after))
    assert headers.get("connection") == ("close" if status == 413 else None)


def test_only_paths_below_v1_are_openais() -> None:
    assert [is_openai(path) for path in ("/v1", "/v1/models", "/v10", "/embed/v1/", "/")] == [
        *(True, True, False, False, False)
    ]
