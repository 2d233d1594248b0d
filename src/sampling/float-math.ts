/**
 * Float32 scalars: samplers step through sigmas that PyTorch holds as 0-dimensional float32
 * tensors, so every operation on one rounds to float32. `round(a + b)` of two float32 is exact
 * float32 arithmetic; transcendental functions are rounded from double, which is the correctly
 * rounded result and differs from PyTorch's by at most an ulp (about one value in a hundred).
 */
export const round = Math.fround;

export function square(value: number): number {
  return round(value * value);
}

export function sqrt(value: number): number {
  return round(Math.sqrt(value));
}

export function exp(value: number): number {
  return round(Math.exp(value));
}

export function log(value: number): number {
  return round(Math.log(value));
}

export function expm1(value: number): number {
  return round(Math.expm1(value));
}

/** Midpoint in the logarithm, `exp(lerp(log a, log b, 1/2))` as torch.lerp computes it. */
export function geometricMean(from: number, to: number): number {
  const end = log(to);
  return exp(round(end - round(round(end - log(from)) * 0.5)));
}

/** Python's round and numpy's rint: to the nearest integer, ties to even. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest < 0.5) return floor;
  if (rest > 0.5) return floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** `torch.linspace(start, end, count)`: both halves are counted from their own end. */
export function linspace(start: number, end: number, count: number): Float32Array {
  const from = round(start);
  const to = round(end);
  const step = count > 1 ? round(round(to - from) / (count - 1)) : 0;
  const half = Math.floor(count / 2);
  const values = new Float32Array(count);
  for (let index = 0; index < count; index++) {
    // The product is fused into the sum there; float64 holds it exactly.
    values[index] = index < half ? from + step * index : to - step * (count - 1 - index);
  }
  if (count === 1) values[0] = from;
  return values;
}
