"""The colours of all pages and plots: name -> (on light paper, on dark paper).

Text colours have a contrast of at least 4.5 to their paper (WCAG 2.2, success criterion 1.4.3); borders of
controls and focus rings have 3 (1.4.11). Plots find their dark colour by the light one, so light colours
differ from each other. Sizes, spaces and corners are in `base.css`.
"""

from __future__ import annotations

from dinodeploy.visualize.heat import SCALE

PALETTE: dict[str, tuple[str, str]] = {
    "page": ("#f7f8f9", "#10151b"),  # behind everything
    "card": ("#ffffff", "#171d25"),  # behind a section, and behind a plot
    "ink": ("#1b2430", "#e6eaef"),
    "soft": ("#5b6776", "#97a3b1"),  # secondary text
    "line": ("#dfe4e9", "#29323d"),  # borders that only divide
    "control": ("#7b8693", "#738090"),  # borders of what can be clicked or typed into
    "grid": ("#edf0f2", "#222a34"),
    "limit": ("#8a94a1", "#77828f"),  # lines that mark a limit; not for text
    "pass": ("#0f7864", "#3cb99a"),
    "pass-tint": ("#e3f4ef", "#14342d"),
    "fail": ("#c2362b", "#f0776b"),
    "fail-tint": ("#fbe9e7", "#40201d"),
    "accent": ("#2563b0", "#6aa6ee"),
    "accent-tint": ("#eaf1fa", "#17263a"),
    "on-accent": ("#fffffe", "#0d1319"),  # text on `accent`, `pass` and `fail`
    "orange": ("#a85c00", "#e8a550"),
    "purple": ("#8547b0", "#bd8ae6"),
    "sky": ("#0b7795", "#57b8d6"),
}
_DARK = "@media (prefers-color-scheme: dark)"


def light(name: str) -> str:
    """The colour on light paper, as #rrggbb."""
    return PALETTE[name][0]


def variables() -> str:
    """CSS: the palette as custom properties, for light and for dark screens."""
    light_ones, dark_ones = (
        " ".join(f"--{name}: {colours[side]};" for name, colours in PALETTE.items()) for side in (0, 1)
    )
    return f":root {{ color-scheme: light dark; {light_ones} }}\n{_DARK} {{ :root {{ {dark_ones} }} }}\n"


def heat_scale() -> str:
    """CSS: the colour scale of maps, the same on light and dark screens, as `--heat`."""
    return f":root {{ --heat: linear-gradient(90deg, {', '.join(f'rgb{colour}' for colour in SCALE)}); }}\n"


def dark_plots() -> str:
    """CSS: recolour plots, whose SVG elements have light colours, on dark screens.

    Selectors name no ancestor: elements inside `use` do not match one.
    """
    rules = " ".join(
        f'[style*="{kind}: {on_light}"] {{ {kind}: {on_dark} !important; }}'
        for on_light, on_dark in PALETTE.values()
        for kind in ("fill", "stroke")
    )
    return f"{_DARK} {{ {rules} }}\n"
