/* Draws an image's patches, one pixel per patch: `shown` is {patches, cls, rows, columns, dim}, patches row by row. */

/* Cosine of a[at .. at + size] and b at the same place. */
function cosine(a, b, at, size) {
  let dot = 0, one = 0, other = 0;
  for (let i = at; i < at + size; i++) { dot += a[i] * b[i]; one += a[i] * a[i]; other += b[i] * b[i]; }
  return one && other ? dot / Math.sqrt(one * other) : 0;
}

function paintPatches(canvas, { rows, columns }, colourOf) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let p = 0; p < rows * columns; p++) image.data.set([...colourOf(p), 255], 4 * p);
  context.putImageData(image, 0, 0);
}

/* The three strongest directions of the centred patches, by power iteration; whitened, as colours by sigmoid(2x). */
function paintPca(canvas, shown) {
  const { patches, rows, columns, dim } = shown, count = rows * columns;
  const mean = new Float64Array(dim);
  for (let i = 0; i < count * dim; i++) mean[i % dim] += patches[i] / count;
  const centred = Float64Array.from({ length: count * dim }, (_, i) => patches[i] - mean[i % dim]);
  const axes = [], scores = [];
  for (let c = 0; c < 3; c++) {
    let axis = Float64Array.from({ length: dim }, (_, d) => Math.sin(1 + d * (c + 1)));
    const score = new Float64Array(count);
    for (let step = 0; step < 40; step++) {
      for (const other of axes) {
        const along = other.reduce((sum, value, d) => sum + value * axis[d], 0);
        for (let d = 0; d < dim; d++) axis[d] -= along * other[d];
      }
      const length = Math.hypot(...axis) || 1;
      axis = axis.map((value) => value / length);
      const next = new Float64Array(dim);
      for (let p = 0; p < count; p++) {
        let sum = 0;
        for (let d = 0, i = p * dim; d < dim; d++, i++) sum += centred[i] * axis[d];
        score[p] = sum;
        for (let d = 0, i = p * dim; d < dim; d++, i++) next[d] += sum * centred[i];
      }
      if (step < 39) axis = next;
    }
    const deviation = Math.sqrt(score.reduce((sum, value) => sum + value * value, 0) / count) || 1;
    axes.push(axis);
    scores.push(score.map((value) => 255 / (1 + Math.exp(-2 * value / deviation))));
  }
  paintPatches(canvas, shown, (p) => scores.map((score) => Math.round(score[p])));
}

/* Cosine of every patch to patch number `patch`, or to CLS for null. Returns the smallest and the largest. */
function paintSimilarity(canvas, shown, patch, scale) {
  const { patches, cls, rows, columns, dim } = shown;
  const query = patch === null ? cls : patches.subarray(patch * dim, (patch + 1) * dim);
  const values = Float64Array.from({ length: rows * columns }, (_, p) => cosine(patches.subarray(p * dim, (p + 1) * dim), query, 0, dim));
  const low = Math.min(...values), high = Math.max(...values);
  paintPatches(canvas, shown, (p) => colourAt(scale, (values[p] - low) / (high - low || 1)));
  return [low, high];
}
