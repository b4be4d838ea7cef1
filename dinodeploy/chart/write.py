"""Write a picture as the suffix says, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from dinodeploy.chart.png import to_png
from dinodeploy.chart.shapes import INKS, Drawing
from dinodeploy.chart.svg import to_svg
from dinodeploy.errors import MisuseError
from dinodeploy.files.atomic import atomic_file


def to_html(drawing: Drawing) -> str:
    """One page around the SVG: no script, nothing loaded from anywhere."""
    light, dark = INKS["paper"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(drawing.title)}</title>\n"
        f"<style>body{{margin:0;background:{light}}}svg{{display:block;margin:0 auto;max-width:100%;"
        f"height:auto}}@media (prefers-color-scheme:dark){{body{{background:{dark}}}}}</style>\n"
        f"</head>\n<body>\n{to_svg(drawing)}</body>\n</html>\n"
    )


WRITERS: dict[str, Callable[[Drawing], bytes]] = {
    ".svg": lambda drawing: to_svg(drawing).encode(),
    ".png": to_png,
    ".html": lambda drawing: to_html(drawing).encode(),
}


def check_picture_path(path: Path) -> None:
    """Before anything is computed. Raises MisuseError for a suffix that is none of WRITERS."""
    if path.suffix.lower() not in WRITERS:
        raise MisuseError(f"{path}: {path.suffix or 'no suffix'!r}; wanted one of {', '.join(WRITERS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise MisuseError(f"{path}: cannot be written there; wanted a file in a folder that exists")


def write_picture(drawing: Drawing, path: Path) -> None:
    """Replaces what is there. Raises MisuseError as `check_picture_path`, OSError as the disk does."""
    check_picture_path(path)
    content = WRITERS[path.suffix.lower()](drawing)
    with atomic_file(path) as file:
        file.write(content)
