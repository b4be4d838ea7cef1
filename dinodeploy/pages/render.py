"""Render a page from its template. Needs Jinja2 (extra `pages`).

Values are escaped, and control and bidirectional characters in them become visible, so a file name cannot
change a page. A template that uses an unknown value is an error.
"""

from __future__ import annotations

import base64
import io
from functools import cache
from importlib import resources
from typing import Any

from PIL import Image

from dinodeploy import __version__
from dinodeploy.errors import UnavailableError, printable
from dinodeploy.pages import palette

_WITH_PLOTS = ("report", "plot")
_SHARED_SCRIPTS = {
    "colour_scale.js": ("service", "visualize", "web"),
    "draw_predictions.js": ("predict", "service"),
    "patch_maps.js": ("service", "web"),
    "web_pixels.js": ("web",),
}
_FILES = resources.files("dinodeploy.pages")  # also finds files inside a zip application


def check_pages() -> None:
    """Raises UnavailableError where Jinja2 is not installed, before any work is done."""
    environment()


def render_page(page: str, **values: Any) -> str:
    """`page`.html with its style sheet and script inside. Raises UnavailableError without Jinja2."""
    values = {"style": style_of(page), "script": script_of(page), "version": __version__, **values}
    return str(environment().get_template(f"{page}.html").render(values)) + "\n"


def style_of(page: str) -> str:
    """CSS of a page: the palette, what all pages share, and its own rules."""
    plots = palette.dark_plots() if page in _WITH_PLOTS else ""
    return palette.variables() + palette.heat_scale() + plots + _read("base.css") + _read(f"{page}.css")


def script_of(page: str) -> str:
    """JavaScript of a page; empty where it has none."""
    shared = "".join(_read(script) for script, pages in _SHARED_SCRIPTS.items() if page in pages)
    return shared + _read(f"{page}.js")


def jpeg_uri(image: Image.Image, quality: int = 82) -> str:
    """An image as a `data:` URL, to stand inside a page."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@cache
def environment() -> Any:
    """The Jinja2 environment of all pages."""
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise UnavailableError("HTML pages need Jinja2: pip install 'dinodeploy[pages]'") from error

    def visible(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _read(name) or None),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read(name: str) -> str:
    file = _FILES / name
    return file.read_text(encoding="utf-8") if file.is_file() else ""
