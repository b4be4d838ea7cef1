"""The page at / (template `pages/service.html`): drop an image, see its patch features and its neighbours.

The browser computes the colours from the patch tokens that /embed returns: a PCA to three colours, and the
cosine of every patch to CLS or to a clicked patch. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib

from dinodeploy.pages import render_page, script_of, style_of


def service_page() -> str:
    """The HTML document. Raises UnavailableError without Jinja2."""
    return render_page("service")


def security_policy() -> str:
    """The page's content security policy: its inline style and script by their hashes, and no others."""
    return (
        f"default-src 'none'; style-src {_hash(style_of('service'))}; "
        f"script-src {_hash(script_of('service'))}; img-src blob: data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    """A source of a content security policy: exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
