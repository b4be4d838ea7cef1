"""A plot measured in pixels from its top left corner, drawn by matplotlib; SVG, PNG or an HTML page.

Colours are names of `pages/palette.py`. Text that a viewer shows on hover is an artist's gid, with TIP before
it; it becomes an SVG title. The same plot gives the same bytes.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.files.atomic import atomic_file
from dinodeploy.pages import render_page
from dinodeploy.pages.palette import dark_plots, light

Axes = Any  # matplotlib.axes.Axes: the package is optional
Anchor = Literal["left", "center", "right"]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

TIP = "tip:"
LABEL_GAP = 15.0  # pixels between the baselines of two labels
MAX_TICKS = 8
PNG_SCALE = 2  # pixels of the file for one of the plot
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_FONT = "DejaVu Sans"  # comes with matplotlib, which measures text with it
_FONTS = f"system-ui, -apple-system, 'Segoe UI', Roboto, '{_FONT}', sans-serif"
_SETTINGS = {
    "font.family": _FONT,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dinodeploy",
    "text.parse_math": False,  # a $ in a file name is a $
}


@dataclass(frozen=True)
class Plot:
    """A plot that is still to be drawn, in pixels.

    head: height of the title and the subtitle above it, which an HTML page has as text; 0: no title is drawn.
    left: where they begin.
    """

    title: str
    width: float
    height: float
    draw: Callable[[Canvas], None]
    subtitle: str = ""
    head: float = 0.0
    left: float = 20.0


class Canvas:
    """What a plot draws on."""

    def __init__(self, figure: Any, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def text(
        self, x: float, y: float, words: str, colour: str = "ink", size: float = 12.0, *,
        anchor: Anchor = "left", bold: bool = False, tip: str = "",
    ) -> None:  # fmt: skip
        """One line of text whose baseline is at `y`."""
        self.figure.text(
            x / self.width, 1 - y / self.height, words, color=light(colour), fontsize=size, ha=anchor,
            va="baseline", fontweight="bold" if bold else "normal", gid=tip and TIP + tip,
        )  # fmt: skip

    def axes(self, box: Box, **settings: Any) -> Axes:
        """Axes without frame and ticks, with such `settings` as xlim."""
        left, top, right, bottom = box
        place = (left / self.width, 1 - bottom / self.height)
        size = ((right - left) / self.width, (bottom - top) / self.height)
        axes = self.figure.add_axes((*place, *size), facecolor="none")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=6, labelsize=11, labelcolor=light("soft"))
        axes.set(axisbelow=True, xticks=[], yticks=[], **settings)
        return axes

    def labels(self, box: Box, ends: Iterable[tuple[float, str, str]]) -> None:
        """(y, words, colour) beside the right edge, moved apart where they would touch."""
        placed = sorted(ends)
        for y, (_, words, colour) in zip(apart([y for y, *_ in placed], box[1], box[3]), placed, strict=True):
            self.text(box[2] + 10, y + 4, words, colour)


def add_bar(
    axes: Axes, y: float, width: float, height: float, left: float, colour: Any, tip: str, **style: Any
) -> None:
    """A rectangle around `y` with words on hover; `colour` as matplotlib takes it."""
    (bar,) = axes.barh(y, width, height, left, color=colour, **style)
    bar.set_gid(TIP + tip)


def decades(values: Iterable[float | None], least: int = 1) -> tuple[int, int]:
    """Exponents of the whole decades that hold all positive values, `least` decades or more."""
    positive = [value for value in values if value is not None and value > 0] or [1.0]
    low = math.floor(math.log10(min(positive)))
    return low, max(math.ceil(math.log10(max(positive))), low + least)


def log_axis(axes: Axes, side: Literal["x", "y"], low: int, high: int) -> None:
    """Scale, grid and labels from 10^low to 10^high."""
    powers = range(low, high + 1, math.ceil((high - low) / MAX_TICKS))
    labels = [f"1e{power}" if low < -3 and power else as_power(power) for power in powers]
    getattr(axes, f"set_{side}scale")("log")
    getattr(axes, f"set_{side}lim")(10.0**low, 10.0**high)
    getattr(axes, f"set_{side}ticks")([10.0**power for power in powers], labels)
    axes.minorticks_off()
    axes.grid(axis=side, color=light("grid"), linewidth=1)


def log_place(value: float, low: float, high: float, start: float, end: float) -> float:
    """Pixel of a value on an axis from 10^low to 10^high; a value outside it, such as 0, is at its end."""
    share = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
    return start + min(max(share, 0.0), 1.0) * (end - start)


def apart(ys: Sequence[float], top: float, bottom: float, gap: float = LABEL_GAP) -> list[float]:
    """Sorted positions, moved up until neighbours are `gap` apart and all are above `bottom`.

    Positions stay below `top`: the lower ones have less room there.
    """
    placed = list(ys)
    ceiling = bottom
    for index in reversed(range(len(placed))):
        placed[index] = max(min(placed[index], ceiling), top + index * gap)
        ceiling = placed[index] - gap
    return placed


def as_power(power: int) -> str:
    """10^power in words: written out from 0.001 to 100,000."""
    if power > 5 or power < -3:
        return f"1e{power}"
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"


def short(value: float | None) -> str:
    """Two digits of an error; None is a value that is not finite."""
    if value is None:
        return "not finite"
    return f"{value:.2g}" if value == 0 or 1e-3 <= abs(value) < 100 else f"{value:.1e}"


def to_png(plot: Plot) -> bytes:
    """RGB PNG on light paper, of PNG_SCALE times the plot's size."""
    options = {"dpi": 72 * PNG_SCALE, "facecolor": light("card"), "metadata": {"Software": None}}
    return _drawn(plot, "png", titled=True, **options)


def to_svg(plot: Plot) -> str:
    """An SVG document that opens on its own and follows the viewer's light or dark setting."""
    root = _svg_tree(plot, light("card"), titled=True, width=f"{plot.width:g}", height=f"{plot.height:g}")
    _prepend(root, "style", f"text {{ white-space: pre; }}\n{dark_plots()}")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def inline_svg(plot: Plot) -> str:
    """An SVG element for an HTML page of ours, which has the dark colours and the head; no background."""
    tree = _svg_tree(plot, "none", titled=False, **{"class": "plot"})
    return ElementTree.tostring(tree, encoding="unicode")


def to_html(plot: Plot) -> bytes:
    """One page around the plot: no script, nothing loaded from elsewhere."""
    words = {"title": plot.title, "subtitle": plot.subtitle, "width": f"{plot.width:g}"}
    return render_page("plot", **words, plot=inline_svg(plot)).encode()


WRITERS: dict[str, Callable[[Plot], bytes]] = {
    ".svg": lambda plot: to_svg(plot).encode(),
    ".png": to_png,
    ".html": to_html,
}


def check_plots() -> Any:
    """matplotlib. Raises UnavailableError where it is not installed."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise UnavailableError("plots need matplotlib: pip install 'dinodeploy[plots]'") from error
    return matplotlib


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
    with atomic_file(path) as file:
        file.write(WRITERS[path.suffix.lower()](plot))


def _drawn(plot: Plot, kind: str, *, titled: bool, **options: Any) -> bytes:
    matplotlib = check_plots()
    buffer = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # of a foreign file name
        figure = matplotlib.figure.Figure((plot.width / 72, plot.height / 72), dpi=72)
        canvas = Canvas(figure, plot.width, plot.height)
        if titled and plot.head:
            canvas.text(plot.left, 36, plot.title, size=20, bold=True)
            canvas.text(plot.left, 57, plot.subtitle, "soft", 12.5)
        plot.draw(canvas)
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _svg_tree(plot: Plot, facecolor: str, *, titled: bool, **attributes: str) -> ElementTree.Element:
    """matplotlib's SVG without metadata and style of its own, with titles for what has a tip."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    text = _drawn(plot, "svg", titled=titled, facecolor=facecolor, metadata={"Date": None}).decode()
    root = ElementTree.fromstring(text.replace(f"'{_FONT}'", _FONTS))
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for group in root.iter(f"{{{_SVG}}}g"):
        tip = group.attrib.pop("id", "")
        if tip.startswith(TIP):
            _prepend(group, "title", tip.removeprefix(TIP))
    top = 0.0 if titled else plot.head
    view = f"0 {top:g} {plot.width:g} {plot.height - top:g}"
    root.attrib = {"viewBox": view, "role": "img", **attributes}
    _prepend(root, "title", plot.title)
    return root


def _prepend(element: ElementTree.Element, tag: str, words: str) -> None:
    element.insert(0, ElementTree.Element(f"{{{_SVG}}}{tag}"))
    element[0].text = words
