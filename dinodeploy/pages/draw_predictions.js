/* Draws predictions over an image, on the page of `predict` and on that of the service.

An item is {size: [w, h], map, values, regions}: `map` is a canvas whose grey values are looked up in `values`
(value -> label), or null; `regions` have label, name, score and a box in shares of the image, or null. */
"use strict";
const SHADES = [0, 0.35, -0.3, 0.55, -0.5];   // of objects that share a class: lighter and darker

function rgb(hex, shade = 0) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16))
    .map((part) => Math.floor(shade > 0 ? part + (255 - part) * shade : part * (1 + shade)));
}

async function loadImage(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  return image;
}

async function loadMap(uri) {
  const image = await loadImage(uri);
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}

/* Colours of the regions of an item, in their order, as region_colours in draw.py. */
function regionColours(regions, colours) {
  const seen = {};
  return regions.map(({ label }) => {
    seen[label] = (seen[label] ?? -1) + 1;
    return rgb(colours[label % 255], SHADES[seen[label] % SHADES.length]);
  });
}

function isShown(region, view) {
  return (view.only === null || view.only.has(region.label)) && (region.score ?? 1) >= view.least;
}

/* Paint the map of an item into a canvas of its own: value -> colour, or nothing. */
function paintMap(map, colourOf) {
  const canvas = document.createElement("canvas");
  canvas.width = map.width;
  canvas.height = map.height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(map.width, map.height);
  const table = Array.from({ length: 256 }, (_, value) => colourOf(value));
  for (let at = 0; at < map.data.length; at += 4) {
    const colour = table[map.data[at]];
    if (colour) pixels.data.set([...colour, 255], at);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/* Draw an item into a context of width x height. view: {opacity, only, least, boxes}. */
function drawItem(context, width, height, item, view, colours) {
  context.clearRect(0, 0, width, height);
  const shades = regionColours(item.regions, colours);
  if (item.heat) {
    context.globalAlpha = view.opacity;
    context.drawImage(item.heat, 0, 0, width, height);
  }
  if (item.map) {
    const colourOf = item.perPixel
      ? (label) => (label < 255 && (view.only === null || view.only.has(label)) ? rgb(colours[label]) : null)
      : (value) => {
        const region = item.regions[value - 1];
        return region && isShown(region, view) ? shades[value - 1] : null;
      };
    context.globalAlpha = view.opacity;
    context.imageSmoothingEnabled = false;
    context.drawImage(paintMap(item.map, colourOf), 0, 0, width, height);
  }
  context.globalAlpha = 1;
  if (!view.boxes) return;
  const size = Math.max(11, Math.min(15, Math.round(width / 42)));
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.lineWidth = Math.max(1.5, width / 360);
  const drawn = item.regions.map((region, at) => ({ region, colour: shades[at] }))
    .filter(({ region }) => region.box && region.thing !== false && isShown(region, view));
  for (const { region, colour } of drawn) {
    const [left, top, right, bottom] = region.box;
    context.strokeStyle = `rgb(${colour})`;
    context.strokeRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
  }
  const taken = [];
  for (const { region, colour } of drawn) drawTag(context, region, colour, size, width, height, taken);
}

/* A name on its colour, above the upper left corner of a box; moved below other tags, as in draw.py. */
function drawTag(context, region, colour, size, width, height, taken) {
  const text = `${region.name} ${region.score.toFixed(2)}`;
  const wide = context.measureText(text).width + size * 0.8;
  const high = size * 1.5;
  const x = Math.max(0, Math.min(region.box[0] * width, width - wide));
  const above = region.box[1] * height - high;
  let y = Math.max(0, Math.min(above >= 0 ? above : region.box[1] * height, height - high));
  for (let tries = taken.length; tries > 0; tries--) {
    const clash = taken.find((tag) => tag.x < x + wide && x < tag.x + tag.wide && tag.y < y + high && y < tag.y + high);
    if (!clash || clash.y + 2 * high > height) break;
    y = clash.y + high;
  }
  taken.push({ x, y, wide });
  context.fillStyle = `rgb(${colour})`;
  context.fillRect(x, y, wide, high);
  const bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140;
  context.fillStyle = bright ? "#10151b" : "#ffffff";
  context.textBaseline = "middle";
  context.fillText(text, x + size * 0.4, y + high / 2 + 0.5);
}
