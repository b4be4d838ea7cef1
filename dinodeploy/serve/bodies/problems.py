"""Error answers as JSON: ours, and under /v1 the one that clients of OpenAI's API read.

ours     {"error": "one line", "request_id": "…"}
/v1/…    {"error": {"message": "one line", "type": "…", "param": "input", "code": "model_not_found"}}

The shape and the status codes of /v1 decide which exception the `openai` client raises: 400
BadRequestError, 401 AuthenticationError, 404 NotFoundError, 429 RateLimitError, 5xx InternalServerError,
others APIStatusError (https://platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

import json

from dinodeploy.serve.refused import Refused

OPENAI = "/v1"  # the prefix of routes that answer as OpenAI's do
_TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}  # others are the request's fault
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def problem(path: str, refused: Refused, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an error answer to a request for `path`."""
    message = " ".join(refused.message.split())
    headers = {"content-type": "application/json", **_headers(refused)}
    if not is_openai(path):
        return refused.status, headers, json.dumps({"error": message, "request_id": request_id}).encode()
    error = {
        "message": message,
        "type": _TYPES.get(refused.status, "invalid_request_error"),
        "param": refused.param,
        "code": refused.code or _CODES.get(refused.status),
    }
    return openai_status(refused.status), headers, json.dumps({"error": error}).encode()


def is_openai(path: str) -> bool:
    """Whether errors of a path have OpenAI's shape."""
    return path == OPENAI or path.startswith(OPENAI + "/")


def openai_status(status: int) -> int:
    """Our status as OpenAI's API has it: an invalid request is 400."""
    return 400 if status == 422 else status


def _headers(refused: Refused) -> dict[str, str]:
    """Extra headers; after an unread body the connection is closed."""
    headers = dict(refused.headers)
    if refused.retry_after is not None:
        headers["retry-after"] = str(refused.retry_after)
    if refused.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refused.status in (408, 413, 421):
        headers["connection"] = "close"
    return headers
