"""Write a drawing as SVG 1.1: one file, no links, light and dark by the viewer's own setting."""

from __future__ import annotations

from html import escape

from dinodeploy.chart.shapes import INKS, Dot, Drawing, Line, Rect, Shape, Text

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def to_svg(drawing: Drawing) -> str:
    """A document that browsers and editors open on its own, and that can stand inside an HTML page."""
    width, height = _number(drawing.width), _number(drawing.height)
    body = "\n".join(_shape(shape) for shape in drawing.shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="{FONT}">\n'
        f"<title>{escape(drawing.title)}</title>\n<style>{_style()}</style>\n"
        f'<rect width="{width}" height="{height}" class="paper"/>\n{body}\n</svg>\n'
    )


def _style() -> str:
    """Colours by ink: `f` classes fill, `s` classes stroke."""
    light = "".join(_rules(ink, colours[0]) for ink, colours in INKS.items())
    dark = "".join(_rules(ink, colours[1]) for ink, colours in INKS.items())
    return f"polyline{{fill:none;stroke-linejoin:round}}{light}@media (prefers-color-scheme:dark){{{dark}}}"


def _rules(ink: str, colour: str) -> str:
    return f".{ink}{{fill:{colour}}}.{ink}-line{{stroke:{colour}}}"


def _shape(shape: Shape) -> str:
    if isinstance(shape, Line):
        points = " ".join(f"{_number(x)},{_number(y)}" for x, y in shape.points)
        dash = f' stroke-dasharray="{_number(shape.dash)}"' if shape.dash else ""
        return (
            f'<polyline class="{shape.ink}-line" stroke-width="{_number(shape.width)}"{dash} '
            f'points="{points}"/>'
        )
    if isinstance(shape, Rect):
        opacity = f' fill-opacity="{_number(shape.opacity)}"' if shape.opacity != 1.0 else ""
        return (
            f'<rect class="{shape.ink}" x="{_number(shape.x)}" y="{_number(shape.y)}" '
            f'width="{_number(shape.width)}" height="{_number(shape.height)}"{opacity}'
            f"{_titled('rect', shape.title)}"
        )
    if isinstance(shape, Dot):
        return (
            f'<circle class="{shape.ink}" cx="{_number(shape.x)}" cy="{_number(shape.y)}" '
            f'r="{_number(shape.radius)}"{_titled("circle", shape.title)}'
        )
    return _text(shape)


def _text(shape: Text) -> str:
    bold = ' font-weight="600"' if shape.bold else ""
    anchor = f' text-anchor="{shape.anchor}"' if shape.anchor != "start" else ""
    return (
        f'<text class="{shape.ink}" x="{_number(shape.x)}" y="{_number(shape.y)}" '
        f'font-size="{_number(shape.size)}"{bold}{anchor}>{escape(shape.text)}</text>'
    )


def _titled(tag: str, title: str) -> str:
    return f"><title>{escape(title)}</title></{tag}>" if title else "/>"


def _number(value: float) -> str:
    """At most two decimals, none where they are zero: the same drawing gives the same bytes."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
