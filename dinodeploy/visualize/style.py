"""The look of the page of pictures, for light and dark screens."""

from __future__ import annotations

CSS = """
:root {
  color-scheme: light dark;
  --page: #f7f8f9; --card: #ffffff; --ink: #1b2430; --soft: #5b6776; --line: #e2e6ea; --accent: #8a2b6a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10131a; --card: #181d26; --ink: #e8ebf0; --soft: #98a3b2; --line: #2a323e; --accent: #f99f4a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
header, main, footer { max-width: 1280px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 36px; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 4px; }
.lead { color: var(--soft); margin: 0 0 18px; max-width: 76ch; }
.bar {
  position: sticky; top: 0; z-index: 1; background: var(--page); border-bottom: 1px solid var(--line);
}
.bar > div {
  max-width: 1280px; margin: 0 auto; padding: 12px 24px; min-height: 60px;
  display: flex; flex-wrap: wrap; align-items: center; gap: 8px 22px;
}
label { display: flex; align-items: center; gap: 9px; color: var(--soft); font-size: 13.5px; }
input[type=range] { width: 190px; accent-color: var(--accent); }
select, button {
  font: inherit; font-size: 13.5px; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: 7px; padding: 4px 11px;
}
button { cursor: pointer; }
[hidden] { display: none !important; }
#status { color: var(--soft); font-size: 13.5px; margin: 0; flex: 1 1 300px; text-align: right; }
.scale { display: flex; align-items: center; gap: 7px; color: var(--soft); font-size: 12.5px;
  font-variant-numeric: tabular-nums; }
.scale i { width: 110px; height: 9px; border-radius: 5px; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 20px;
  padding-top: 22px; padding-bottom: 20px; align-items: start; }
figure {
  margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden;
}
canvas { display: block; width: 100%; height: auto; cursor: crosshair; }
canvas:focus-visible { outline: 3px solid var(--accent); outline-offset: -3px; }
figcaption {
  padding: 9px 14px 10px; font-size: 13.5px; display: flex; gap: 12px; justify-content: space-between;
}
figcaption b { font-weight: 600; overflow-wrap: anywhere; }
figcaption span { color: var(--soft); white-space: nowrap; font-variant-numeric: tabular-nums; }
kbd { font: inherit; font-size: 12.5px; border: 1px solid var(--line); border-bottom-width: 2px;
  border-radius: 5px; padding: 0 5px; background: var(--card); }
footer { color: var(--soft); font-size: 12.5px; padding-bottom: 40px; }
"""
