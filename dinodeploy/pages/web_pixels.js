/* Preprocessing and judging in the browser, as dinodeploy does both in Python.

The resize is Pillow's: antialiased, columns of the output first, weights in fixed point and rounding to bytes after each
pass (on bytes), or in floats. Before a centre crop Pillow may resize rows first, which changes pixels by at most one grey level.
The canvas's own resize gives other pixels. */
"use strict";
const FILTERS = {
  bilinear: { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { reach: 2, weight: (x) => {   // a = -0.5
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  } },
};
const BITS = 22;   // of a weight in fixed point

/* Weights of `count` outputs from `offset` on, when `source` samples become `target`. */
function resizeWeights(source, target, offset, count, filter, bytes) {
  const scale = source / target, wide = Math.max(scale, 1), reach = filter.reach * wide;
  return Array.from({ length: count }, (_, i) => {
    const centre = (i + offset + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(source, Math.trunc(centre + reach + 0.5));
    let sum = 0;
    const weights = Array.from({ length: end - first }, (__, k) => {
      const weight = filter.weight((k + first - centre + 0.5) / wide);
      sum += weight;
      return weight;
    });
    return { first, weights: weights.map((w) => {
      const share = sum ? w / sum : w;
      return bytes ? Math.trunc(share * 2 ** BITS + (share < 0 ? -0.5 : 0.5)) : share;
    }) };
  });
}

const toByte = (sum) => Math.min(255, Math.max(0, Math.floor((sum + 2 ** (BITS - 1)) / 2 ** BITS)));

/* RGBA [h,w,4] -> three planes [height,width]: resized to `full` (rows, columns), then cut at `offset`. */
function resize(rgba, w, h, full, offset, height, width, name, bytes) {
  const filter = FILTERS[name], Plane = bytes ? Uint8Array : Float32Array;
  const across = resizeWeights(w, full[1], offset[1], width, filter, bytes);
  const down = resizeWeights(h, full[0], offset[0], height, filter, bytes);
  const finish = bytes ? toByte : (sum) => sum;
  const top = down[0].first, last = down[height - 1];
  const rows = last.first + last.weights.length - top;
  return [0, 1, 2].map((channel) => {
    const half = new Plane(rows * width), out = new Plane(height * width);
    for (let y = 0; y < rows; y++) for (let x = 0; x < width; x++) {
      const { first, weights } = across[x];
      let sum = 0, at = ((y + top) * w + first) * 4 + channel;
      for (let k = 0; k < weights.length; k++, at += 4) sum += weights[k] * rgba[at];
      half[y * width + x] = finish(sum);
    }
    for (let y = 0; y < height; y++) {
      const { first, weights } = down[y];
      for (let x = 0; x < width; x++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * half[(first - top + k) * width + x];
        out[y * width + x] = finish(sum);
      }
    }
    return out;
  });
}

/* Python's round: halves go to the even number. */
function roundEven(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

/* (rows, columns) of an image that keeps its shape: on the patch grid, at most `most` patches. */
function nearestGrid(w, h, short, patch, most) {
  let scale = short / Math.min(w, h) / patch;
  let rows = Math.max(1, Math.floor(h * scale + 0.5)), columns = Math.max(1, Math.floor(w * scale + 0.5));
  if (rows * columns > most) {
    scale = Math.sqrt(most / (w * h));
    rows = Math.min(most, Math.max(1, Math.floor(h * scale)));
    columns = Math.min(most, Math.max(1, Math.floor(w * scale)));
  }
  return [rows * patch, columns * patch];
}

/* (rows, columns) of an image that is fitted into a rectangle. */
function fitInside(w, h, height, width) {
  if (height !== width) {
    const scale = Math.min(height / h, width / w);
    return [Math.max(1, Math.min(roundEven(h * scale), height)), Math.max(1, Math.min(roundEven(w * scale), width))];
  }
  const short = Math.min(w, h), long = Math.max(w, h);
  if (short === long) return [height, width];
  const exact = height * short / long, side = roundEven(exact);
  if (short === side) return [h, w];
  const low = Math.max(side, 1), high = Math.trunc(exact * long / short);
  return w > h ? [low, high] : [high, low];
}

/* RGBA [h,w,4] of an opaque image -> {pixels float32 [3,H,W], planes, height, width} by the bundle's preset. */
function preprocess(rgba, w, h, preset) {
  const bytes = preset.dtype === "uint8";
  let { height, width } = preset, full, offset = [0, 0], shown = null;
  if (preset.fit === "keep-aspect") [height, width] = nearestGrid(w, h, height, preset.patch, preset.most);
  full = [height, width];
  if (preset.fit === "short-side-crop") {
    const [over, under] = preset.ratio;
    const tall = Math.floor(height * over / under), broad = Math.floor(width * over / under);
    full = tall * w >= broad * h ? [tall, Math.floor(tall * w / h)] : [Math.floor(broad * h / w), broad];
    offset = [roundEven((full[0] - height) / 2), roundEven((full[1] - width) / 2)];
  } else if (preset.fit === "pad") {
    full = fitInside(w, h, height, width);
    shown = [Math.min(full[0], height), Math.min(full[1], width)];
  }
  const [rows, columns] = shown ?? [height, width];
  const planes = resize(rgba, w, h, full, offset, rows, columns, preset.interpolation, bytes);
  const pixels = new Float32Array(3 * height * width);
  for (let c = 0; c < 3; c++) {
    const scale = Math.fround(1 / (255 * preset.std[c])), shift = Math.fround(preset.mean[c] / preset.std[c]);
    const at = c * height * width;
    if (shown) pixels.fill(-shift, at, at + height * width);   // black outside the image
    for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
      pixels[at + y * width + x] = Math.fround(planes[c][y * columns + x] * scale) - shift;
    }
  }
  return { pixels, height, width };
}

/* A safetensors file -> {name: {shape, data}}. Source: https://huggingface.co/docs/safetensors. */
function readTensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const kinds = { F32: Float32Array, U8: Uint8Array, I32: Int32Array };
  const found = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [begin, end] = entry.data_offsets;
    found[name] = { shape: entry.shape, data: new kinds[entry.dtype](buffer.slice(8 + size + begin, 8 + size + end)) };
  }
  return found;
}

/* Golden cases: {name, images [{rgba, width, height}], pixels, outputs}. */
function readGolden(buffer) {
  const cases = {};
  for (const [key, tensor] of Object.entries(readTensors(buffer))) {
    const [name, kind, output] = key.split("/");
    const one = cases[name] ??= { name, images: [], outputs: {} };
    if (kind === "pixels") one.pixels = tensor;
    else if (kind === "out") one.outputs[output] = tensor;
    else if (/^image_\d+$/.test(kind)) {
      const [height, width] = tensor.shape;
      const rgba = new Uint8ClampedArray(4 * height * width).fill(255);
      for (let p = 0; p < height * width; p++) for (let c = 0; c < 3; c++) rgba[4 * p + c] = tensor.data[3 * p + c];
      one.images[Number(kind.slice(6))] = { rgba, width, height };
    }
  }
  return Object.values(cases);
}

/* The p-th percentile with linear interpolation. */
function percentile(values, p) {
  const sorted = Float64Array.from(values).sort();
  const place = (sorted.length - 1) * p / 100, low = Math.floor(place);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (place - low);
}

/* Metrics of one output: cls [B,D], storage [B,R,D], patch [B,h,w,D]. */
function measure(got, wanted, shape) {
  const dim = shape[shape.length - 1], tokens = wanted.length / dim;
  let error = 0, size = 0;
  for (let i = 0; i < wanted.length; i++) { error += (got[i] - wanted[i]) ** 2; size += wanted[i] ** 2; }
  const cosines = Float64Array.from({ length: tokens }, (_, t) => cosine(got, wanted, t * dim, dim));
  const found = { relative_frobenius: Math.sqrt(error / size) };
  if (shape.length !== 4) return { ...found, cosine: Math.min(...cosines) };
  const each = tokens / shape[0], means = [got, wanted].map((values) => {
    const sums = new Float64Array(shape[0] * dim);
    for (let i = 0; i < values.length; i++) sums[Math.floor(i / (each * dim)) * dim + i % dim] += values[i] / each;
    return sums;
  });
  const ofMeans = Array.from({ length: shape[0] }, (_, b) => cosine(means[0], means[1], b * dim, dim));
  return { ...found, cosine: Math.min(...ofMeans), patch_cosine_p01: percentile(cosines, 1) };
}

/* Share of images whose nearest neighbour is the same in both [N,D]. */
function neighbourAgreement(got, wanted, dim) {
  const count = got.length / dim;
  if (count < 2) return 1;
  const nearest = (rows, i) => {
    let best = -Infinity, at = 0;
    for (let j = 0; j < count; j++) {
      if (j === i) continue;
      let dot = 0, length = 0;
      for (let d = 0; d < dim; d++) { dot += rows[i * dim + d] * rows[j * dim + d]; length += rows[j * dim + d] ** 2; }
      const closeness = length ? dot / Math.sqrt(length) : 0;
      if (closeness > best) { best = closeness; at = j; }
    }
    return at;
  };
  let same = 0;
  for (let i = 0; i < count; i++) same += nearest(got, i) === nearest(wanted, i);
  return same / count;
}

/* Compare preprocessing and `run` with the golden cases; run(pixels, shape) -> {name: {shape, data}}. */
async function judge(cases, settings, limits, run, progress = () => {}) {
  const found = [], vectors = [[], []];
  const hold = (where, output, values, rows) => {
    for (const [metric, value] of Object.entries(values)) {
      const row = rows[metric];
      const passed = !row || (row.at_least ? value >= row.limit : value <= row.limit);
      found.push({ where, output, metric, value, limit: row ? row.limit : null, passed });
    }
  };
  for (const [number, one] of cases.entries()) {
    await progress(number, cases.length);
    const [batch, , height, width] = one.pixels.shape;
    const each = 3 * height * width;
    const short = Math.min(height, width);
    const size = settings.preprocess.fit === "keep-aspect" ? { height: short, width: short } : { height, width };
    const differences = new Float32Array(batch * each);
    one.images.forEach((image, b) => {
      const made = preprocess(image.rgba, image.width, image.height, { ...settings.preprocess, ...size });
      for (let i = 0; i < each; i++) {
        const std = settings.preprocess.std[Math.floor(i / (height * width))];
        differences[b * each + i] = Math.abs(made.pixels[i] - one.pixels.data[b * each + i]) * std * 255;
      }
    });
    let largest = 0, sum = 0;
    for (const value of differences) { largest = Math.max(largest, value); sum += value; }
    if (!Number.isFinite(sum)) largest = NaN;
    hold(one.name, "pixels", { pixel_max: largest, pixel_mean: sum / differences.length }, settings.pixel_limits);
    const outputs = await run(one.pixels.data, one.pixels.shape);
    for (const name of settings.outputs) {
      const wanted = one.outputs[name], got = outputs[name];
      if (!got || got.data.length !== wanted.data.length) {
        found.push({ where: one.name, output: name, metric: "shape", value: NaN, limit: null, passed: false });
        continue;
      }
      hold(one.name, name, measure(got.data, wanted.data, wanted.shape), limits);
    }
    if (outputs.cls) { vectors[0].push(...outputs.cls.data); vectors[1].push(...one.outputs.cls.data); }
  }
  const dim = settings.model.dim;
  if (limits.nearest_neighbour) {
    hold("all", "cls", { nearest_neighbour: neighbourAgreement(...vectors, dim) }, limits);
  }
  const worst = (metric, pick) => pick(...found.filter((one) => one.metric === metric).map((one) => one.value));
  return {
    passed: found.length > 0 && found.every((one) => one.passed),
    failures: found.filter((one) => !one.passed),
    relative: worst("relative_frobenius", Math.max),
    cosine: worst("cosine", Math.min),
    grey: worst("pixel_max", Math.max),
  };
}
