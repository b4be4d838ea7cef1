"""The look of the page at /, for light and dark screens, wide and narrow."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f7f8f9; --card: #ffffff; --ink: #1b2430; --soft: #5b6776; --line: #dfe4e9;
  --accent: #2563b0; --tint: #eaf1fa; --fail: #c2362b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10151b; --card: #171d25; --ink: #e6eaef; --soft: #97a3b1; --line: #29323d;
    --accent: #6aa6ee; --tint: #17263a; --fail: #f0776b;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0 auto; max-width: 1080px; padding: 36px 20px 48px; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 16px; margin-bottom: 20px; }
h1 { font-size: 26px; letter-spacing: -0.015em; margin: 0; }
h2 { font-size: 18px; letter-spacing: -0.01em; margin: 32px 0 12px; }
p { margin: 0; }
.soft { color: var(--soft); }
#drop {
  display: flex; flex-wrap: wrap; justify-content: center; align-items: baseline; gap: 0 10px;
  padding: 30px 20px; border: 1.5px dashed var(--line); border-radius: 12px; background: var(--card);
  cursor: pointer; text-align: center;
}
#drop:hover, #drop:focus-visible, #drop.over {
  border-color: var(--accent); background: var(--tint); outline: none;
}
#drop strong { font-weight: 620; }
#file { position: absolute; opacity: 0; width: 1px; height: 1px; pointer-events: none; }
#status { min-height: 24px; margin: 10px 2px; color: var(--soft); font-variant-numeric: tabular-nums; }
#status.fail { color: var(--fail); }
#views { display: grid; grid-template-columns: repeat(3, 1fr); gap: 18px; }
figure { margin: 0; min-width: 0; }
canvas {
  display: block; width: 100%; border-radius: 10px; image-rendering: pixelated; background: var(--line);
}
#picture { image-rendering: auto; }
#picture, #pca, #similarity { cursor: crosshair; }
figcaption { color: var(--soft); font-size: 13.5px; margin-top: 8px; }
figcaption b { color: var(--ink); font-weight: 600; }
.scale { display: flex; align-items: center; gap: 8px; margin-top: 4px; font-variant-numeric: tabular-nums; }
.scale i { font-style: normal; }
#ramp { flex: 1; height: 8px; border-radius: 4px; }
button, input[type=password] {
  font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 5px 12px;
}
button { cursor: pointer; }
button:hover { border-color: var(--accent); }
#reset { font-size: 12.5px; padding: 1px 10px; margin-top: 6px; }
#key { display: flex; flex-wrap: wrap; gap: 10px; align-items: center; margin-bottom: 16px; }
#neighbours {
  list-style: none; margin: 0; padding: 0; display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr));
}
#neighbours .tile {
  aspect-ratio: 4 / 3; border-radius: 10px; overflow: hidden; background: var(--line); display: grid;
  place-items: center; color: var(--soft); font-size: 12.5px; text-align: center;
}
#neighbours img { width: 100%; height: 100%; object-fit: cover; display: block; }
#neighbours b { font-variant-numeric: tabular-nums; font-weight: 600; }
#neighbours p {
  font-size: 12.5px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; margin-top: 5px;
}
footer { margin-top: 40px; padding-top: 14px; border-top: 1px solid var(--line); font-size: 12.5px; }
a { color: inherit; }
@media (max-width: 720px) {
  body { padding-top: 22px; }
  #views { grid-template-columns: 1fr; max-width: 420px; margin: 0 auto; }
}
"""
