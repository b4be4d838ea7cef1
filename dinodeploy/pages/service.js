/* Sends an image to the service and draws what it returns. */
"use strict";
const $ = (id) => document.getElementById(id);
const SIDE = 512;            // pixels of a drawn image's longer side
const IMAGE = "image_embedding", PATCHES = "patch_embedding";   // outputs that texts are compared with
let key = "";
let model = null;
let shown = null;            // the image on the page: {patches, cls, rows, columns, dim}
let latest = 0;              // number of the newest request: older answers are dropped

async function ask(path, options = {}) {
  const headers = key ? { Authorization: "Bearer " + key } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) $("key").hidden = false;
  let words = response.status + " " + response.statusText;
  try { words = (await response.json()).error; } catch { /* not JSON of the service: show the status */ }
  throw new Error(words);
}

function report(words, failed = false) {
  $("status").textContent = words;
  $("status").classList.toggle("fail", failed);
}

function form(file) {
  const data = new FormData();
  data.append("files", file, file.name || "image");
  return data;
}

function floats(array) {
  const bytes = Uint8Array.from(atob(array.base64), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

async function describe() {
  try {
    model = await (await ask("/model")).json();
  } catch (error) { return report(error.message, true); }
  $("key").hidden = true;
  report("");
  $("model").textContent = `${model.arch}, ${model.recipe}` +
    (model.weights === "random" ? ", random weights: for trying, not for use" : "");
  $("words").hidden = !(model.texts && model.index_output === IMAGE);
  const maps = model.outputs.some((name) => ["patch", PATCHES].includes(name));
  for (const item of document.querySelectorAll(".says-views")) item.hidden = !maps;
  $("says-predicted").hidden = !model.head;
  $("says-classes").hidden = model.labels === null;
  $("says-found").hidden = model.index === null;
  await describeRoutes();
  $("facts").textContent = `${model.engine} on ${model.device}.`;
}

/* The routes that work with this bundle, and how a program asks them. */
async function describeRoutes() {
  const models = (await (await ask("/v1/models")).json()).data;
  const routes = [
    ["POST", "/embed", "images to vectors and patch maps"],
    models.length && ["POST", "/v1/embeddings", `${model.texts ? "images and texts" : "images"}, for OpenAI clients`],
    model.head && ["POST", "/predict", "classes, masks, boxes or depth"],
    model.index !== null && ["POST", "/search", "the nearest images of the index"],
    model.texts && ["POST", "/classify", "probabilities of labels"],
    ["GET", "/model", "what is served, and its limits"],
    ["GET", "/metrics", "for Prometheus"],
  ].filter(Boolean);
  $("routes").replaceChildren(...routes.map(([method, path, words]) => {
    const [item, verb, name, text] = ["li", "b", "code", "span"].map((tag) => document.createElement(tag));
    [verb.textContent, verb.className, name.textContent, text.textContent] = [method, method, path, words];
    item.append(verb, name, text);
    return item;
  }));
  const header = key ? " -H 'Authorization: Bearer KEY'" : "";
  $("curl").textContent = `curl${header} -F files=@cat.jpg \\\n  ${location.origin}/${model.head ? "predict" : "embed"}`;
  $("with-openai").hidden = !models.length;
  if (models.length) {
    $("openai").textContent = [
      "import base64, openai",
      "client = openai.OpenAI(",
      `    base_url="${location.origin}/v1", api_key="${key ? "KEY" : "unused"}")`,
      'image = base64.b64encode(open("cat.jpg", "rb").read())',
      'url = "data:image/jpeg;base64," + image.decode()',
      `answer = client.embeddings.create(model="${models[0].id}", input=url)`,
    ].join("\n");
  }
  $("api").hidden = false;
}

async function show(file) {
  const mine = ++latest;
  $("start").hidden = true;
  report("Embedding…");
  const [whole, grid] = model.outputs.includes("patch") ? ["cls", "patch"] : [IMAGE, PATCHES];
  if (model.head) await predict(file, mine);
  if (!model.outputs.includes(grid)) return;   // a whole model: its head is all there is
  const started = performance.now();
  try {
    const [answer, bitmap] = await Promise.all([
      ask(`/embed?outputs=${whole},${grid}&encoding=base64`, { method: "POST", body: form(file) })
        .then((response) => response.json()),
      createImageBitmap(file).catch(() => null),   // a format that browsers cannot decode, such as TIFF
    ]);
    if (mine !== latest) return;
    const image = answer.images[0];
    const [rows, columns, dim] = image.outputs[grid].shape;
    const cls = floats(image.outputs[whole]).subarray(0, dim);   // an image embedding begins with CLS
    shown = { patches: floats(image.outputs[grid]), cls, rows, columns, dim };
    $("views").hidden = false;
    drawImage(bitmap, image);
    paintPca($("pca"), shown);
    drawSimilarity(null);
    const ms = Math.round(performance.now() - started);
    report(`${image.width} × ${image.height} px, ${rows} × ${columns} patches of ${dim} numbers, ${ms} ms`);
    await classify(file, mine);
    await neighbours(file, mine);
  } catch (error) {
    if (mine === latest) report(error.message, true);
  }
}

function drawImage(bitmap, image) {
  const canvas = $("image");
  const [height, width] = image.input;
  const scale = SIDE / Math.max(height, width);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  if (!bitmap) return;
  let [x, y, w, h] = [0, 0, bitmap.width, bitmap.height];
  const crop = { timm: 1, eval: 256 / 224 }[model.preprocess.preset];   // short side over crop
  if (crop) {
    const across = Math.min(w / width, h / height) / crop;
    [x, y, w, h] = [(w - width * across) / 2, (h - height * across) / 2, width * across, height * across];
  }
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, x, y, w, h, 0, 0, canvas.width, canvas.height);
}

function drawSimilarity(patch) {
  const [low, high] = paintSimilarity($("similarity"), shown, patch, drawing.scale);
  $("low").textContent = low.toFixed(2);
  $("high").textContent = high.toFixed(2);
  $("to").textContent = patch === null ? "CLS" : `patch ${Math.floor(patch / shown.columns)}, ${patch % shown.columns}`;
  $("reset").hidden = patch === null;
}

const drawing = JSON.parse($("data").textContent);
const view = { opacity: 0.55, only: null, least: 0, boxes: true };
let predicted = null;        // what the section of the prediction shows: {item, bitmap, width, height}

/* The answer of /predict as an item of draw_predictions.js. */
async function itemOf(image, task) {
  const { width, height } = image;
  const regions = (image.regions ?? []).map((region) => ({
    ...region, name: region.class,
    box: region.box && region.box.map((side, at) => side / (at % 2 ? height : width)),
  }));
  const item = { regions, map: null, heat: null, perPixel: task === "segment" };
  if (!image.map) return item;
  const map = await loadMap("data:image/png;base64," + image.map.png);
  if (task !== "depth") return { ...item, map };
  const values = Float64Array.from({ length: map.width * map.height }, (_, p) => map.data[4 * p]);
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  const colourOf = (value) => colourAt(drawing.scale, (value - low) / (high - low || 1));
  return { ...item, heat: paintMap(map, colourOf) };
}

function labelOf(name) { return Math.max(0, model.head.classes.indexOf(name)); }

function percent(share) { return `${(100 * share).toFixed(1)} %`; }

function linesOf(image) {
  if (image.classes) {
    return image.classes.map((one) => [one.class, percent(one.probability), one.probability, labelOf(one.class)]);
  }
  if (image.shares) {
    return Object.entries(image.shares).map(([name, share]) => [name, percent(share), share, labelOf(name)]);
  }
  if (image.metres) return Object.entries(image.metres).map(([word, value]) => [word, `${value.toFixed(2)} m`]);
  return image.regions.map((one) => [one.class, one.score.toFixed(2), one.score, one.label]);
}

async function predict(file, mine) {
  report("Predicting…");
  const started = performance.now();
  try {
    const [answer, bitmap] = await Promise.all([
      ask("/predict", { method: "POST", body: form(file) }).then((response) => response.json()),
      createImageBitmap(file).catch(() => null),
    ]);
    const image = answer.images[0], item = await itemOf(image, answer.task);
    if (mine !== latest) return;
    predicted = { item, bitmap, width: image.width, height: image.height };
    $("predicted").hidden = false;
    $("predicted").dataset.task = answer.task;
    $("opacity-of").hidden = !(item.map || item.heat);
    const lines = linesOf(image);
    $("regions").replaceChildren(...lines.map(([name, text, share, label]) => {
      const [row, mark, word, number] = ["li", "i", "span", "b"].map((tag) => document.createElement(tag));
      word.textContent = name;
      number.textContent = text;
      row.append(mark, word, number);
      if (share === undefined) return row;
      const [bar, full] = ["u", "s"].map((tag) => document.createElement(tag));
      mark.style.background = full.style.background = drawing.colours[label % 255];
      full.style.width = `${100 * share}%`;
      bar.append(full);
      row.append(bar);
      return row;
    }));
    if (!lines.length) $("regions").textContent = "Nothing found.";
    drawPrediction();
    report(`${image.width} × ${image.height} px, ${Math.round(performance.now() - started)} ms`);
  } catch (error) {
    if (mine === latest) report(error.message, true);
  }
}

function drawPrediction() {
  const { item, bitmap, width, height } = predicted, canvas = $("prediction");
  const scale = Math.min(1, 1024 / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const over = document.createElement("canvas");
  over.width = canvas.width;
  over.height = canvas.height;
  drawItem(over.getContext("2d"), canvas.width, canvas.height, item, view, drawing.colours);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  if (bitmap) context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  context.drawImage(over, 0, 0);
}

async function classify(file, mine) {
  if (model.labels === null) return;
  const { images } = await (await ask("/classify?top=5", { method: "POST", body: form(file) })).json();
  if (mine !== latest) return;
  $("named").hidden = false;
  $("classes").replaceChildren(...images[0].classes.map((found) => {
    const item = document.createElement("li");
    const [name, box, share] = ["span", "div", "b"].map((tag) => document.createElement(tag));
    const bar = document.createElement("i");
    name.textContent = found.class;
    name.title = `${found.class}, cosine ${found.cosine.toFixed(3)}`;
    bar.style.width = `${100 * found.probability}%`;
    share.textContent = `${Math.round(100 * found.probability)} %`;
    box.append(bar);
    item.append(name, box, share);
    return item;
  }));
}

async function neighbours(file, mine) {
  if (model.index === null) return;
  const { results } = await (await ask("/search?k=12", { method: "POST", body: form(file) })).json();
  if (mine === latest) list("Nearest in the index", results);
}

function list(heading, results) {
  $("found").hidden = false;
  $("found").querySelector("h2").textContent = heading;
  $("neighbours").replaceChildren(...results.map(tile));
}

async function searchWords(text) {
  const mine = ++latest;
  report("Searching…");
  $("start").hidden = true;
  const started = performance.now();
  try {
    const { results } = await (await ask("/search?k=12&text=" + encodeURIComponent(text))).json();
    if (mine !== latest) return;
    $("views").hidden = $("named").hidden = $("predicted").hidden = true;
    list(`“${text}”`, results);
    report(`${results.length} nearest images, ${Math.round(performance.now() - started)} ms`);
  } catch (error) {
    if (mine === latest) report(error.message, true);
  }
}

function tile(result) {
  const item = document.createElement("li");
  const box = document.createElement("div");
  box.className = "tile";
  const words = document.createElement("p");
  const cosine = document.createElement("b");
  cosine.textContent = result.cosine.toFixed(3);
  words.append(cosine, " ", result.id.split(/[\\/]/).pop());
  const facts = Object.entries(result.metadata).map(([name, value]) => `${name}: ${value}`);
  words.title = [result.id, `${result.width} × ${result.height}`, ...facts].join("\n");
  item.append(box, words);
  ask("/thumbnail?id=" + encodeURIComponent(result.id)).then((r) => r.blob()).then((blob) => {
    const image = document.createElement("img");
    image.alt = "";
    image.src = URL.createObjectURL(blob);
    image.addEventListener("load", () => URL.revokeObjectURL(image.src));
    box.append(image);
  }).catch(() => { box.textContent = "no longer there"; });
  return item;
}

function cell(place, size, cells) {
  return Math.min(cells - 1, Math.max(0, Math.floor(place / size * cells)));
}

for (const id of ["image", "pca", "similarity"]) {
  $(id).addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const row = cell(event.clientY - box.top, box.height, shown.rows);
    drawSimilarity(row * shown.columns + cell(event.clientX - box.left, box.width, shown.columns));
  });
}
$("opacity").addEventListener("input", (event) => {
  view.opacity = event.target.value / 100;
  if (predicted) drawPrediction();
});
$("reset").addEventListener("click", () => drawSimilarity(null));
$("file").addEventListener("change", (event) => {
  if (event.target.files[0]) show(event.target.files[0]);
  event.target.value = "";
});
$("sample").addEventListener("click", async () => {
  try {
    const blob = await (await ask("/sample.jpg")).blob();
    await show(new File([blob], "sample.jpg", { type: blob.type }));
  } catch (error) { report(error.message, true); }
});
$("drop").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); }
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.remove("over"); });
}
document.addEventListener("drop", (event) => {
  if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files[0]) show(event.clipboardData.files[0]);
});
$("words").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text) searchWords(text);
});
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("secret").value.trim();
  describe();
});
describe();
