/* Blends image and map, and compares every patch with the one that was clicked.

The data is in a JSON element. Features are int8, patch after patch; cosines are taken of them as they are.
Only images that are in view are drawn. */
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const blend = document.getElementById("blend");
const layer = document.getElementById("layer");
const back = document.getElementById("back");
const status = document.getElementById("status");
const scale = document.getElementById("scale");
let chosen = null;  // {view, row, column} of the patch that everything is compared to
let maps = null;    // per image: cosines, while a patch is chosen

function decode(text) {
  const bytes = atob(text);
  const out = new Int8Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) out[i] = bytes.charCodeAt(i) << 24 >> 24;
  return out;
}

async function load(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  return image;
}

function lengths(view) {
  const { features, width, rows, columns } = view;
  const out = new Float32Array(rows * columns);
  for (let p = 0; p < out.length; p++) {
    let sum = 0;
    for (let i = p * width; i < (p + 1) * width; i++) sum += features[i] * features[i];
    out[p] = Math.sqrt(sum);
  }
  return out;
}

function cosines(view, query, size) {
  const { features, width } = view;
  const out = new Float32Array(view.lengths.length);
  for (let p = 0; p < out.length; p++) {
    let sum = 0;
    for (let i = 0, j = p * width; i < width; i++, j++) sum += features[j] * query[i];
    out[p] = view.lengths[p] && size ? sum / (view.lengths[p] * size) : 0;
  }
  return out;
}

function paint(values, view, low, high) {
  const canvas = document.createElement("canvas");
  canvas.width = view.columns;
  canvas.height = view.rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(view.columns, view.rows);
  values.forEach((value, p) => pixels.data.set([...colourAt(data.scale, (value - low) / (high - low || 1)), 255], 4 * p));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function box(view, row, column, style, line) {
  const w = view.canvas.width / view.columns, h = view.canvas.height / view.rows;
  view.context.strokeStyle = style;
  view.context.lineWidth = line;
  view.context.strokeRect(column * w, row * h, w, h);
}

function draw(view) {
  view.stale = false;
  const { context, canvas } = view;
  context.globalAlpha = 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(view.image, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = blend.value / 100;
  const map = maps ? maps.get(view) : view.maps[layer.selectedIndex];
  context.imageSmoothingEnabled = maps !== null || !data.dims;
  context.drawImage(map, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = true;
  context.globalAlpha = 1;
  const line = Math.max(2, canvas.width / 256);
  const asked = chosen ?? (view.mark ? { view, row: view.mark[0], column: view.mark[1] } : null);
  for (const place of [asked, view.cursor ? { view, ...view.cursor } : null]) {
    if (place && place.view === view) {
      box(view, place.row, place.column, "#000", 2.5 * line);
      box(view, place.row, place.column, place === asked ? "#fff" : "#ffd75e", line);
    }
  }
}

function drawAll() {
  for (const view of views) {
    view.stale = true;
    if (view.seen) draw(view);
  }
}

/* Write a colour scale: what it is of, and the values at its ends; nothing where there are none. */
function label(ramp, unit, ends) {
  ramp.hidden = !ends;
  if (!ends) return;
  const [low, high] = ramp.querySelectorAll("span");
  ramp.querySelector("em").textContent = unit;
  [low.textContent, high.textContent] = ends;
}

/* The scale of the layer that is shown: one for all images, or one below each. */
function labelLayer() {
  const ends = views.map(view => view.layers[layer.selectedIndex].ends);
  const common = ends[0] && ends.every(pair => pair[0] === ends[0][0] && pair[1] === ends[0][1]);
  label(scale, data.unit, common ? ends[0] : null);
  views.forEach((view, at) => { if (view.ramp) label(view.ramp, data.unit, common ? null : ends[at]); });
}

function choose(view, row, column) {
  chosen = { view, row, column };
  const at = row * view.columns + column;
  const query = view.features.subarray(at * view.width, (at + 1) * view.width);
  const found = new Map(views.map(other => [other, cosines(other, query, view.lengths[at])]));
  let low = Infinity, high = -Infinity;
  for (const values of found.values()) for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  maps = new Map(views.map(other => [other, paint(found.get(other), other, low, high)]));
  status.textContent = `Cosine to row ${row}, column ${column} of ${view.name}`;
  label(scale, "cosine", [low.toFixed(2), high.toFixed(2)]);
  for (const other of views) if (other.ramp) other.ramp.hidden = true;
  back.hidden = false;
  layer.disabled = true;
  drawAll();
}

function forget() {
  chosen = maps = null;
  back.hidden = true;
  layer.disabled = false;
  labelLayer();
  status.textContent = data.hint;
  drawAll();
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function press(event, view) {
  const cursor = view.cursor || { row: view.rows >> 1, column: view.columns >> 1 };
  if (event.key in MOVES) {
    const [down, right] = view.cursor ? MOVES[event.key] : [0, 0];
    view.cursor = {
      row: Math.min(Math.max(cursor.row + down, 0), view.rows - 1),
      column: Math.min(Math.max(cursor.column + right, 0), view.columns - 1),
    };
    draw(view);
  } else if (event.key === "Enter" || event.key === " ") {
    choose(view, cursor.row, cursor.column);
  } else {
    return;
  }
  event.preventDefault();
}

function click(event, view) {
  const frame = view.canvas.getBoundingClientRect();
  const row = Math.floor((event.clientY - frame.top) / frame.height * view.rows);
  const column = Math.floor((event.clientX - frame.left) / frame.width * view.columns);
  view.cursor = null;
  choose(view, Math.min(Math.max(row, 0), view.rows - 1), Math.min(Math.max(column, 0), view.columns - 1));
}

let views = [];
async function start() {
  views = await Promise.all([...document.querySelectorAll("canvas")].map(async (canvas, index) => {
    const item = data.images[index];
    const view = { ...item, canvas, context: canvas.getContext("2d"), cursor: null, seen: false, stale: true };
    view.ramp = canvas.parentElement.querySelector(".ramp");
    view.features = decode(item.features);
    view.lengths = lengths(view);
    [view.image, ...view.maps] = await Promise.all([item.image, ...item.layers.map(each => each.map)].map(load));
    canvas.addEventListener("click", event => click(event, view));
    canvas.addEventListener("keydown", event => press(event, view));
    canvas.addEventListener("blur", () => { view.cursor = null; draw(view); });
    return view;
  }));
  const byCanvas = new Map(views.map(view => [view.canvas, view]));
  const watch = new IntersectionObserver(entries => {
    for (const entry of entries) {
      const view = byCanvas.get(entry.target);
      view.seen = entry.isIntersecting;
      if (view.seen && view.stale) draw(view);
    }
  }, { rootMargin: "50%" });
  views.forEach(view => watch.observe(view.canvas));
  blend.addEventListener("input", drawAll);
  layer.addEventListener("change", () => { labelLayer(); drawAll(); });
  back.addEventListener("click", forget);
  document.addEventListener("keydown", event => { if (event.key === "Escape") forget(); });
  forget();
  for (const view of views.slice(0, 12)) {  // until the observer says what is in view
    view.seen = true;
    draw(view);
  }
  document.body.dataset.ready = "yes";
}
start();
