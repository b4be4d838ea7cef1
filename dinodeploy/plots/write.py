"""Write a plot as SVG, PNG or an HTML page. The same plot gives the same bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.files.atomic import atomic_file
from dinodeploy.pages import render_page
from dinodeploy.pages.palette import dark_plots, light
from dinodeploy.plots.canvas import TIP, Canvas, Plot

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_FONT = "DejaVu Sans"  # comes with matplotlib, which measures text with it
_FONTS = f"system-ui, -apple-system, 'Segoe UI', Roboto, '{_FONT}', sans-serif"
_SETTINGS = {
    "font.family": _FONT,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dinodeploy",
    "text.parse_math": False,  # a $ in a file name is a $
}
PNG_SCALE = 2  # pixels of the file for one of the plot


def to_png(plot: Plot) -> bytes:
    """RGB PNG on light paper, of PNG_SCALE times the plot's size."""
    return _drawn(plot, "png", dpi=72 * PNG_SCALE, facecolor=light("card"), metadata={"Software": None})


def to_svg(plot: Plot) -> str:
    """An SVG document that opens on its own and follows the viewer's light or dark setting."""
    root = _svg_tree(plot, facecolor=light("card"))
    root.set("width", f"{plot.width:g}")
    root.set("height", f"{plot.height:g}")
    style = ElementTree.Element(f"{{{_SVG}}}style")
    style.text = dark_plots()
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def inline_svg(plot: Plot) -> str:
    """An SVG element for an HTML page of ours, whose style sheet has the dark colours; no background."""
    root = _svg_tree(plot, facecolor="none")
    root.set("class", "plot")
    return ElementTree.tostring(root, encoding="unicode")


def to_html(plot: Plot) -> str:
    """One page around the plot: no script, nothing loaded from elsewhere."""
    return render_page("plot", title=plot.title, width=plot.width, plot=inline_svg(plot))


WRITERS: dict[str, Callable[[Plot], bytes]] = {
    ".svg": lambda plot: to_svg(plot).encode(),
    ".png": to_png,
    ".html": lambda plot: to_html(plot).encode(),
}


def check_plots() -> None:
    """Raises UnavailableError where matplotlib is not installed, before any work is done."""
    _matplotlib()


def check_plot_path(path: Path) -> None:
    """Raises MisuseError for a path that cannot be written, and as `check_plots`, before any work is done."""
    if path.suffix.lower() not in WRITERS:
        raise MisuseError(f"{path}: {path.suffix or 'no suffix'!r}; wanted one of {', '.join(WRITERS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise MisuseError(f"{path}: cannot be written there; wanted a file in a folder that exists")
    check_plots()


def write_plot(plot: Plot, path: Path) -> None:
    """Write or replace `path`, in the format of its suffix. Raises as `check_plot_path`, and OSError."""
    check_plot_path(path)
    content = WRITERS[path.suffix.lower()](plot)
    with atomic_file(path) as file:
        file.write(content)


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise UnavailableError("plots need matplotlib: pip install 'dinodeploy[plots]'") from error
    return matplotlib


def _drawn(plot: Plot, kind: str, **options: Any) -> bytes:
    matplotlib = _matplotlib()
    buffer = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of a foreign file name
        figure = matplotlib.figure.Figure((plot.width / 72, plot.height / 72), dpi=72)
        plot.draw(Canvas(figure, plot.width, plot.height))
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _svg_tree(plot: Plot, facecolor: str) -> ElementTree.Element:
    """matplotlib's SVG without metadata and style of its own, with titles for what has a tip."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    text = _drawn(plot, "svg", facecolor=facecolor, metadata={"Date": None}).decode()
    root = ElementTree.fromstring(text.replace(f"'{_FONT}'", _FONTS))
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for group in root.iter(f"{{{_SVG}}}g"):
        tip = group.attrib.pop("id", "")
        if tip.startswith(TIP):
            _add_title(group, tip.removeprefix(TIP))
    root.attrib = {"viewBox": f"0 0 {plot.width:g} {plot.height:g}", "role": "img"}
    _add_title(root, plot.title)
    return root


def _add_title(element: ElementTree.Element, words: str) -> None:
    title = ElementTree.Element(f"{{{_SVG}}}title")
    title.text = words
    element.insert(0, title)
