/* The page of predictions: opacity, classes, smallest score, and one image large.

Maps are decoded, and drawn anew, only for images that are in view. */
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const figures = [...document.querySelectorAll("main figure")];
const view = { opacity: 0.55, only: null, least: 0, boxes: true };
let open = -1;   // number of the enlarged image

/* The lines of an image that the choices leave. */
function linesOf(item) {
  return item.lines.filter((line) => line.score === undefined || isShown(line, view));
}

function hasShown(item) {
  if (item.metres) return true;
  const lines = linesOf(item);
  if (view.only === null && view.least === 0) return true;
  return lines.some((line) => view.only === null || view.only.has(line.label));
}

function swatch(label) {
  const mark = document.createElement("i");
  mark.style.background = data.colours[label % 255];
  return mark;
}

function place(frame, item) {
  const image = frame.querySelector("img"), canvas = frame.querySelector("canvas");
  const outer = frame.getBoundingClientRect(), box = image.getBoundingClientRect();
  const scale = Math.min(box.width / item.size[0], box.height / item.size[1]);
  const width = item.size[0] * scale, height = item.size[1] * scale;
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  canvas.style.left = `${box.left - outer.left + (box.width - width) / 2}px`;
  canvas.style.top = `${box.top - outer.top + (box.height - height) / 2}px`;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  drawItem(context, width, height, item, view, data.colours);
}

function caption(figure, item) {
  if (item.metres) return;
  const found = figure.querySelector(".found"), lines = linesOf(item);
  found.replaceChildren(...lines.slice(0, data.listed).map((line) => {
    const part = document.createElement("span");
    part.append(swatch(line.label), `${line.name} ${line.text}`);
    return part;
  }));
  if (lines.length > data.listed) found.append(`and ${lines.length - data.listed} more`);
  if (!lines.length) found.textContent = "nothing found";
}

/* Decode the map of an image, once. */
function prepare(at) {
  const item = data.items[at];
  item.loading ??= Promise.all([item.map ? loadMap(item.map) : null, item.heat ? loadImage(item.heat) : null,
    figures[at].querySelector("img").decode()]).then(([map, heat]) => {
    Object.assign(item, { map, heat, ready: true });
    redraw(at);
    if (open === at) enlarge(at);
  });
  return item.loading;
}

function redraw(at) {
  const item = data.items[at];
  item.stale = !item.seen || figures[at].hidden;
  if (item.ready && !item.stale) place(figures[at].querySelector(".frame"), item);
}

function refresh() {
  let count = 0;
  figures.forEach((figure, at) => {
    const item = data.items[at];
    figure.hidden = !hasShown(item);
    if (figure.hidden) return;
    count += 1;
    caption(figure, item);
    redraw(at);
  });
  const all = `${figures.length} image${figures.length === 1 ? "" : "s"}`;
  $("status").textContent = count === figures.length ? "" : `${count} of ${all}`;
  if (open >= 0) enlarge(open);
}

/* Show one class alone, or with others that were chosen; all again with "All". */
function choose(label) {
  if (label === "") view.only = null;
  else {
    const only = new Set(view.only ?? []);
    if (!only.delete(Number(label))) only.add(Number(label));
    view.only = only.size ? only : null;
  }
  for (const chip of $("classes").children) {
    const own = chip.dataset.label;
    chip.setAttribute("aria-pressed", own === "" ? view.only === null : !!view.only?.has(Number(own)));
  }
  refresh();
}

function enlarge(at) {
  open = at;
  const item = data.items[at], dialog = $("large");
  const image = dialog.querySelector("img");
  image.src = item.image;
  image.alt = item.name;
  image.style.aspectRatio = `${item.size[0]} / ${item.size[1]}`;
  dialog.querySelector("h2").textContent = item.name;
  dialog.querySelector("ol").replaceChildren(...linesOf(item).map((line) => {
    const row = document.createElement("li"), name = document.createElement("b"), text = document.createElement("em");
    name.textContent = line.name;
    text.textContent = line.text;
    row.append(line.label === undefined ? document.createElement("i") : swatch(line.label), name, text);
    if (line.share !== undefined) {
      const bar = document.createElement("u"), full = document.createElement("s");
      full.style.width = `${100 * line.share}%`;
      full.style.background = data.colours[line.label % 255];
      bar.append(full);
      row.append(bar);
    }
    return row;
  }));
  if (!dialog.open) dialog.showModal();
  image.decode().then(() => { if (item.ready && open === at) place(dialog.querySelector(".frame"), item); });
  prepare(at);
}

figures.forEach((figure, at) => {
  figure.addEventListener("click", () => enlarge(at));
  figure.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(at); }
  });
});
$("large").addEventListener("close", () => { open = -1; });
$("large").addEventListener("click", (event) => { if (event.target === $("large")) $("large").close(); });
$("close").addEventListener("click", () => $("large").close());
document.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (open < 0 || !step) return;
  for (let at = open + step; at >= 0 && at < figures.length; at += step) {
    if (!figures[at].hidden) { enlarge(at); return; }
  }
});
$("opacity").addEventListener("input", (event) => { view.opacity = event.target.value / 100; refresh(); });
$("boxes").addEventListener("change", (event) => { view.boxes = event.target.checked; refresh(); });
$("least").addEventListener("input", (event) => {
  view.least = event.target.value / 100;
  $("least-text").textContent = view.least.toFixed(2);
  refresh();
});
window.addEventListener("resize", refresh);
const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const at = figures.indexOf(entry.target), item = data.items[at];
    item.seen = entry.isIntersecting;
    if (item.seen && !item.ready) prepare(at);
    else if (item.seen && item.stale) redraw(at);
  }
}, { rootMargin: "50%" });
for (const chip of $("classes").children) chip.addEventListener("click", () => choose(chip.dataset.label));
for (const figure of figures) watch.observe(figure);
