/* The colour [r,g,b] of a share of 0 to 1 on a scale of evenly spaced colours. */
function colourAt(scale, share) {
  const place = Math.min(Math.max(share, 0), 1) * (scale.length - 1), i = Math.min(Math.floor(place), scale.length - 2);
  return scale[i].map((low, c) => Math.round(low + (scale[i + 1][c] - low) * (place - i)));
}
