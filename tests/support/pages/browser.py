"""Measures a page in Chromium: what sticks out, what cannot be read, what has no words, what moved."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCHEMES = ("light", "dark")
WIDTHS = (390, 1280, 1600)

# Text with less contrast to the colour behind it than WCAG 2.2, 1.4.3 asks for: 4.5, or 3 for large text.
FAINT = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, title, :disabled")) continue;
    const style = getComputedStyle(element);
    const ink = parts(element instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [light(ink), light(paper(element))].toSorted((one, other) => one - other);
    const size = parseFloat(style.fontSize);
    const wanted = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < wanted) found.push(`${node.data.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return found;
}"""

# Elements that are wider than the window; those inside a place that scrolls do not count.
WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.body.querySelectorAll("*")]
    .filter((one) => one.getBoundingClientRect().right > width + 1)
    .filter((one) => !one.parentElement.closest(".scroll, .chips"))
    .map((one) => `${one.tagName}.${one.className}`).slice(0, 5);
}"""

# Text that its own box cuts off: it is wider than a box that hides what is outside, without an ellipsis.
CUT = """() => [...document.querySelectorAll("h1, h2, h3, p, button, label, td, th, dd")].filter((one) =>
  one.checkVisibility() && one.scrollWidth > one.clientWidth + 1 && one.clientWidth
  && getComputedStyle(one).overflowX !== "visible" && getComputedStyle(one).textOverflow !== "ellipsis")
  .map((one) => one.textContent.slice(0, 40))"""

# Text of a plot that its edge cuts off.
OUTSIDE = """() => [...document.querySelectorAll("svg.plot")].flatMap((plot) => {
  const edge = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()])
    .filter(([, box]) => box.left < edge.left - 1 || box.right > edge.right + 1)
    .map(([words]) => words);
})"""

# Images, canvases, plots and controls that a screen reader has no name for.
NAMELESS = """() => [
  ...[...document.querySelectorAll("img")].filter((one) => !one.alt.trim()),
  ...[...document.querySelectorAll("svg")].filter((one) => !one.querySelector("title")),
  ...[...document.querySelectorAll("button, input, select")].filter((one) => one.checkVisibility()
    && !(one.ariaLabel || one.textContent.trim() || one.labels?.length)),
].map((one) => one.outerHTML.slice(0, 80))"""

# How far the layout moved after it was first shown (Cumulative Layout Shift).
SHIFT = """() => new Promise((resolve) => {
  let sum = 0;
  new PerformanceObserver((list) => { for (const one of list.getEntries()) sum += one.value; })
    .observe({ type: "layout-shift", buffered: true });
  setTimeout(() => resolve(sum), 150);
})"""

# Whether what has the focus shows it: an outline of two pixels or more.
FOCUS = """() => {
  const style = getComputedStyle(document.activeElement);
  return document.activeElement === document.body
    || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2);
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def watch(page: Any) -> list[str]:
    """A list that collects errors of the page, errors on its console, and requests to elsewhere."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.on("request", lambda asked: problems.append(asked.url) if asked.url.startswith("http") else None)
    return problems
