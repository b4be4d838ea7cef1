"""The HTML pages of the service: the page to try it at /, and the description of its routes at /docs.

Both are one document with its style and script inside and load nothing from elsewhere: FastAPI's own /docs
takes its scripts from another host, which a service without internet cannot, and which the content security
policy of every answer forbids.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources

from fastapi import FastAPI
from starlette.responses import Response

from dinodeploy.pages import render_page, script_of, style_of
from dinodeploy.serve.bodies.openapi_page import route_facts
from dinodeploy.serve.bodies.predictions import page_data

SAMPLE = "sample.jpg"
HTML = "text/html; charset=utf-8"


def add_pages(app: FastAPI) -> None:
    """Add the pages, after every other route: /docs describes the routes that there are."""
    document = app.openapi()
    service = render_page("service", data=page_data())
    routes = render_page("routes", routes=route_facts(document), about=document["info"]["description"])
    bodies = {
        "/": (service.encode(), HTML),
        "/docs": (routes.encode(), HTML),
        "/openapi.json": (json.dumps(document, separators=(",", ":")).encode(), "application/json"),
        f"/{SAMPLE}": ((resources.files("dinodeploy.pages") / SAMPLE).read_bytes(), "image/jpeg"),
    }
    policies = {"/": security_policy("service"), "/docs": security_policy("routes")}

    def add(path: str) -> None:
        content, media_type = bodies[path]
        headers = {"content-security-policy": policies[path]} if path in policies else {}

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(content, media_type=media_type, headers=headers)

    for path in bodies:
        add(path)

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> Response:
        return Response(status_code=204)


def security_policy(page: str) -> str:
    """A page's content security policy: its inline style and script by their hashes, and no others."""
    script = script_of(page)
    return (
        f"default-src 'none'; style-src {_hash(style_of(page))}; "
        f"script-src {_hash(script) if script else repr('none')}; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    """A source of a content security policy: exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
