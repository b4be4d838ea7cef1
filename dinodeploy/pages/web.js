/* Loads a graph with onnxruntime-web, compares it with the golden outputs, embeds images and draws their patches. */
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SIDE = 512;   // pixels of a drawn image's longer side
const MAX_PIXELS = 89_000_000;   // of an image, as in Python
const ROWS = [...document.querySelectorAll("#figures dt")].map((term) => term.textContent);
let session = null, ort = null, device = "wasm", shown = null, cursor = null, chosen = null, latest = 0;
let asked = false;   // whether the user chose the device
let note = "";       // why another device is used than the first that was tried

const pause = () => new Promise((resolve) => setTimeout(resolve, 0));   // lets the page draw

function report(words, failed = false) {
  $("status").textContent = words;
  $("status").classList.toggle("fail", failed);
}

function verdict(words, state = "") {
  $("verdict").textContent = words;
  $("verdict").className = state || "soft";
}

async function download(url, progress) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answers ${response.status}; copy the whole folder`);
  const total = Number(response.headers.get("content-length")) || 0;
  const parts = [];
  let size = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    progress(size, total);
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return whole;
}

/* Whether WebGPU is here, and whether it computes in fp16. */
async function findGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return adapter ? { fp16: adapter.features.has("shader-f16"), name: adapter.info?.description || adapter.info?.vendor || "" } : null;
}

/* WebGPU: fp16 where the device has it, else fp32, else the first. WebAssembly: the smallest. */
function chooseGraph(gpu) {
  const names = data.graphs.map((graph) => graph.precision);
  if (gpu) {
    const wanted = gpu.fp16 && names.includes("fp16") ? "fp16" : "fp32";
    return Math.max(0, names.indexOf(wanted));
  }
  return data.graphs.reduce((best, graph, i) => graph.bytes < data.graphs[best].bytes ? i : best, 0);
}

async function open(graph) {
  const folder = new URL(data.runtime.folder + "/", location.href).href;
  ort = await import(folder + (device === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs"));
  ort = ort.InferenceSession ? ort : ort.default;
  ort.env.wasm.wasmPaths = folder;
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency || 1) : 1;
  const base = graph.file.slice(0, graph.file.lastIndexOf("/") + 1);
  const loaded = (size) => {
    $("progress").value = Math.min(1, size / graph.bytes);
    verdict(`Loading the model: ${(size / 1e6).toFixed(1)} of ${(graph.bytes / 1e6).toFixed(1)} MB`);
  };
  const model = await download(graph.file, loaded);
  const externalData = [];
  for (const name of graph.data) externalData.push({ path: name, data: await download(base + name, (n) => loaded(n + model.length)) });
  verdict("Starting the model…");
  await pause();
  return ort.InferenceSession.create(model, { executionProviders: device === "webgpu" ? ["webgpu", "wasm"] : ["wasm"], externalData });
}

async function run(pixels, shape) {
  const outputs = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", pixels, shape) }, data.outputs);
  return Object.fromEntries(data.outputs.map((name) => [name, { shape: outputs[name].dims, data: outputs[name].data }]));
}

async function makeReceipt(graph) {
  verdict("Comparing with the reference…");
  $("progress").style.visibility = "visible";
  const golden = readGolden((await download(data.golden, () => {})).buffer);
  const started = performance.now();
  const found = await judge(golden, data, data.limits[graph.precision], run, (number, count) => {
    $("progress").value = number / count;
    return pause();
  });
  if (!found.passed && device === "webgpu" && !asked) {
    note = `WebGPU was tried first: ${sentence(found.failures[0])}`;
    return false;
  }
  const images = golden.reduce((sum, one) => sum + one.images.length, 0);
  verdict(found.passed
    ? `Passed: on this device, ${images} photographs agree with the PyTorch reference within the limits of ${graph.precision}.`
    : `Failed: ${sentence(found.failures[0])}. Do not use these embeddings.`,
    found.passed ? "pass" : "fail");
  const values = [
    found.relative.toExponential(1), found.cosine.toFixed(7), found.grey.toFixed(2), graph.precision,
    device === "webgpu" ? `WebGPU ${window.gpu?.name ?? ""}` : `WebAssembly, threads: ${ort.env.wasm.numThreads}`,
    data.runtime.name, `${((performance.now() - started) / 1000).toFixed(1)} s`,
  ];
  const rows = { ...Object.fromEntries(ROWS.map((name, i) => [name, values[i]])), ...(note ? { note } : {}) };
  fill(rows);
  window.receipt = { ...found, precision: graph.precision, device };
  return true;
}

/* Names and values of the receipt. */
function fill(rows) {
  $("figures").replaceChildren(...Object.entries(rows).map(([name, value]) => {
    const place = document.createElement("div"), term = document.createElement("dt"), words = document.createElement("dd");
    term.textContent = name;
    place.className = name === "note" ? "full" : "";
    words.textContent = value;
    place.append(term, words);
    return place;
  }));
}

const sentence = (one) => `${one.output} of case ${one.where}: ${one.metric} is ${one.value.toPrecision(3)}` +
  (one.limit === null ? "" : `, limit ${one.limit}`);

/* WebGPU is not exact enough here, or lacks memory or an operator: WebAssembly instead. */
function fallBack() {
  device = $("device").value = "wasm";
  $("graph").selectedIndex = chooseGraph(null);
  return start();
}

async function start() {
  const graph = data.graphs[$("graph").selectedIndex];
  for (const id of ["file", "again", "graph", "device"]) $(id).disabled = true;
  $("progress").style.visibility = "visible";
  fill(Object.fromEntries(ROWS.map((name) => [name, "…"])));
  window.receipt = null;
  try {
    await session?.release?.();
    session = null;
    session = await open(graph);
    if (!await makeReceipt(graph)) return await fallBack();
    for (const id of ["file", "again"]) $(id).disabled = false;
  } catch (error) {
    if (device === "webgpu" && !asked) {
      note = `WebGPU was tried first: ${error.message ?? error}`;
      return await fallBack();
    }
    const local = location.protocol === "file:" ? " Open this page through a web server: python -m http.server" : "";
    verdict(`The model cannot run here: ${error.message ?? error}.${local}`, "fail");
  } finally {
    $("progress").style.visibility = "hidden";
    for (const id of ["graph", "device"]) $(id).disabled = false;
  }
}

/* An opaque upright image, RGBA, without colour management: transparency over white. */
async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name || "This"} is no image that this browser reads; convert it to JPEG or PNG`);
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(`${width} × ${height} pixels are too many; shrink the image first`);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  return { rgba: context.getImageData(0, 0, width, height).data, width, height };
}

/* {cls, patches, rows, columns} of an image file; also for scripts on this page. */
async function embed(file) {
  const { rgba, width, height } = await decode(file);
  const made = preprocess(rgba, width, height, data.preprocess);
  const outputs = await run(made.pixels, [1, 3, made.height, made.width]);
  const [, rows, columns, dim] = outputs.patch.shape;
  return { ...made, width, height, input: [made.height, made.width], cls: outputs.cls.data, patches: outputs.patch.data, rows, columns, dim };
}

async function show(file) {
  if (!session || !file) return;
  const mine = ++latest, started = performance.now();
  report("Embedding…");
  await pause();
  try {
    const made = await embed(file);
    if (mine !== latest) return;
    shown = made;
    cursor = chosen = null;
    $("views").hidden = $("vector").hidden = false;
    paintPca($("pca"), shown);
    compare(null);
    report(`${made.width} × ${made.height} px, ${made.rows} × ${made.columns} patches of ${made.dim} numbers, ${Math.round(performance.now() - started)} ms`);
  } catch (error) {
    if (mine === latest) report(error.message ?? String(error), true);
  }
}

/* The image as the model sees it, from its pixels, with a mark on the asked patch. */
function drawImage() {
  const [height, width] = shown.input, small = new ImageData(width, height);
  for (let p = 0; p < height * width; p++) {
    for (let c = 0; c < 3; c++) {
      small.data[4 * p + c] = 255 * (shown.pixels[c * height * width + p] * data.preprocess.std[c] + data.preprocess.mean[c]);
    }
    small.data[4 * p + 3] = 255;
  }
  const source = new OffscreenCanvas(width, height);
  source.getContext("2d").putImageData(small, 0, 0);
  const canvas = $("image"), scale = SIDE / Math.max(height, width);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  for (const [place, style] of [[chosen, "#fff"], [cursor, "#ffd75e"]]) {
    if (!place) continue;
    const w = canvas.width / shown.columns, h = canvas.height / shown.rows;
    for (const [line, ink] of [[5, "#000"], [2, style]]) {
      context.lineWidth = line;
      context.strokeStyle = ink;
      context.strokeRect(place[1] * w, place[0] * h, w, h);
    }
  }
}

/* Cosine of every patch to one patch [row, column], or to CLS for null. */
function compare(place) {
  chosen = place;
  const patch = place && place[0] * shown.columns + place[1];
  const [low, high] = paintSimilarity($("similarity"), shown, patch, data.scale);
  $("low").textContent = low.toFixed(2);
  $("high").textContent = high.toFixed(2);
  $("to").textContent = place ? `row ${place[0]}, column ${place[1]}` : "CLS";
  $("back").disabled = !place;
  drawImage();
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
/* Which of `count` cells of a side a click is in. */
function cellAt(offset, size, count) {
  return Math.min(count - 1, Math.max(0, Math.floor(offset / size * count)));
}
$("image").addEventListener("click", (event) => {
  const place = event.target.getBoundingClientRect();
  cursor = null;
  compare([cellAt(event.clientY - place.top, place.height, shown.rows), cellAt(event.clientX - place.left, place.width, shown.columns)]);
});
$("image").addEventListener("keydown", (event) => {
  if (event.key === "Escape") { cursor = null; compare(null); }
  if (event.key === "Enter" && cursor) compare(cursor);
  const move = MOVES[event.key];
  if (!move) return;
  event.preventDefault();
  const from = cursor ?? chosen ?? [0, 0];
  cursor = [Math.min(shown.rows - 1, Math.max(0, from[0] + move[0])), Math.min(shown.columns - 1, Math.max(0, from[1] + move[1]))];
  drawImage();
});
$("back").addEventListener("click", () => { cursor = null; compare(null); });
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(JSON.stringify(Array.from(shown.cls)));
    report(`Copied ${shown.dim} numbers`);
  } catch { report("This browser gives no access to the clipboard here", true); }
});
$("file").addEventListener("change", () => { show($("file").files[0]); $("file").value = ""; });
$("drop").addEventListener("keydown", (event) => { if (["Enter", " "].includes(event.key)) { event.preventDefault(); $("file").click(); } });
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    if (name === "drop") show([...event.dataTransfer.files].find((file) => file.type.startsWith("image/")) ?? event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => show(event.clipboardData.files[0]));
$("graph").addEventListener("change", start);
$("device").addEventListener("change", () => { device = $("device").value; asked = true; note = ""; start(); });
$("again").addEventListener("click", start);
(async () => {
  window.gpu = await findGpu();
  $("device").querySelector("[value=webgpu]").disabled = !window.gpu;
  if (window.gpu) device = $("device").value = "webgpu";
  $("graph").selectedIndex = chooseGraph(window.gpu);
  await start();
})();
