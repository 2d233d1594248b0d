/**
 * Element-wise float32 arithmetic of the samplers. Each function returns a new array and rounds
 * after every operation, as the PyTorch expression in its comment does; scalars are float32 (or
 * are rounded to it, as PyTorch does with a Python float).
 */
import { round } from "./float-math.ts";

/** x + scale * y */
export function addScaled(x: Float32Array, scale: number, y: Float32Array): Float32Array {
  const factor = round(scale);
  const sum = new Float32Array(x.length);
  for (let index = 0; index < x.length; index++) {
    sum[index] = (x[index] as number) + round((y[index] as number) * factor);
  }
  return sum;
}

/** a * x + b * y */
export function mix(a: number, x: Float32Array, b: number, y: Float32Array): Float32Array {
  const first = round(a);
  const second = round(b);
  const sum = new Float32Array(x.length);
  for (let index = 0; index < x.length; index++) {
    sum[index] = round((x[index] as number) * first) + round((y[index] as number) * second);
  }
  return sum;
}

/** x - y */
export function subtract(x: Float32Array, y: Float32Array): Float32Array {
  const difference = new Float32Array(x.length);
  for (let index = 0; index < x.length; index++) {
    difference[index] = (x[index] as number) - (y[index] as number);
  }
  return difference;
}

/** x * scale */
export function scaled(x: Float32Array, scale: number): Float32Array {
  const factor = round(scale);
  const product = new Float32Array(x.length);
  for (let index = 0; index < x.length; index++) product[index] = (x[index] as number) * factor;
  return product;
}

/** x / divisor */
export function divided(x: Float32Array, divisor: number): Float32Array {
  const by = round(divisor);
  const quotient = new Float32Array(x.length);
  for (let index = 0; index < x.length; index++) quotient[index] = (x[index] as number) / by;
  return quotient;
}

/** (x - denoised) / sigma: the slope dx / dsigma of the probability flow. */
export function slope(x: Float32Array, denoised: Float32Array, sigma: number): Float32Array {
  const direction = new Float32Array(x.length);
  for (let index = 0; index < x.length; index++) {
    direction[index] = round((x[index] as number) - (denoised[index] as number)) / sigma;
  }
  return direction;
}
