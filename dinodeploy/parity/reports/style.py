"""The look of the HTML report, for light and dark screens and for paper."""

from __future__ import annotations

CSS = """
:root {
  color-scheme: light dark;
  --page: #f7f8f9; --card: #ffffff; --ink: #1b2430; --soft: #5b6776; --line: #e2e6ea; --grid: #edf0f2;
  --pass: #12806a; --pass-tint: #e3f4ef; --fail: #c2362b; --fail-tint: #fbe9e7; --limit: #8a94a1;
  --cls: #2563b0; --storage: #b26a05; --extra: #0b7a83; --patch: #8547b0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10151b; --card: #171d25; --ink: #e6eaef; --soft: #97a3b1; --line: #29323d; --grid: #222a34;
    --pass: #3cb99a; --pass-tint: #14342d; --fail: #f0776b; --fail-tint: #40201d; --limit: #77828f;
    --cls: #6aa6ee; --storage: #e0a447; --extra: #5cc3cb; --patch: #bd8ae6;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 860px; margin: 0 auto; padding: 40px 20px 64px; }
header { margin-bottom: 28px; }
.mark { display: inline-block; padding: 3px 12px; border-radius: 99px; font-weight: 650; font-size: 13px; }
.mark.pass { color: var(--pass); background: var(--pass-tint); }
.mark.fail { color: var(--fail); background: var(--fail-tint); }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; margin: 14px 0 6px; }
h2 { font-size: 18px; letter-spacing: -0.01em; margin: 0 0 2px; }
h3 { font-size: 13px; margin: 22px 0 4px; font-weight: 650; }
p { margin: 0 0 10px; }
.lead { color: var(--soft); font-size: 16px; max-width: 62ch; }
.note { color: var(--soft); font-size: 13.5px; max-width: 74ch; margin-bottom: 14px; }
section, .facts {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 22px 24px; margin-top: 16px;
}
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 14px 24px; margin: 0;
}
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.answer { font-weight: 600; }
.answer.fail { color: var(--fail); }
ul.failures { margin: 8px 0 0; padding-left: 18px; color: var(--fail); }
ul.failures b { color: var(--ink); font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 500; }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.fail td { color: var(--fail); }
h3 .note { font-weight: 400; margin-left: 4px; }
.scroll { overflow-x: auto; }
summary { cursor: pointer; color: var(--soft); }
details table { margin-top: 12px; }
footer { color: var(--soft); font-size: 12.5px; margin-top: 24px; }
section > svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .tick { font-size: 11px; } svg .axis { font-size: 11.5px; }
svg .label { fill: var(--ink); }
svg .grid { stroke: var(--grid); }
svg .limit { stroke: var(--limit); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .limit-word { font-size: 11px; }
svg .pass { fill: var(--pass); } svg .fail { fill: var(--fail); }
svg .pass-word { fill: var(--soft); } svg .fail-word { fill: var(--fail); font-weight: 650; }
svg .track { fill: var(--grid); }
svg .curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg .cls { stroke: var(--cls); } svg .cls-word { fill: var(--cls); }
svg .storage { stroke: var(--storage); } svg .storage-word { fill: var(--storage); }
svg .extra { stroke: var(--extra); } svg .extra-word { fill: var(--extra); }
svg .patch { stroke: var(--patch); } svg .patch-word { fill: var(--patch); }
svg .step { stroke: var(--ink); stroke-width: 2.2; } svg .step-word { fill: var(--ink); font-weight: 650; }
svg .dot { fill: var(--card); stroke: var(--ink); stroke-width: 1.6; }
svg .band { fill: var(--fail-tint); } svg .band-word { fill: var(--fail); font-weight: 650; }
@media (max-width: 640px) {
  section { overflow-x: auto; }
  section > svg { min-width: 560px; }
}
@media print { body { background: #fff; } section, .facts { break-inside: avoid; } }
"""
