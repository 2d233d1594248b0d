/**
 * Sixteen normals from sixteen uniforms, in place, as PyTorch's AVX2 kernel computes them: the
 * first eight uniforms give radii, the last eight angles; cosines go to the first half, sines to
 * the second. Logarithm, sine and cosine are the single-precision Cephes polynomials (Moshier),
 * in the operation order of the vector library used there, with multiply-adds fused.
 *
 * A fused multiply-add is written fround(a * b + c): the product of two float32 is exact in
 * float64, so this differs from a true one only by double rounding, about once in 2^29 operations.
 */
const round = Math.fround;

const LOG_0 = round(7.0376836292e-2);
const LOG_1 = round(-1.151461031e-1);
const LOG_2 = round(1.167699874e-1);
const LOG_3 = round(-1.2420140846e-1);
const LOG_4 = round(1.4249322787e-1);
const LOG_5 = round(-1.6668057665e-1);
const LOG_6 = round(2.0000714765e-1);
const LOG_7 = round(-2.4999993993e-1);
const LOG_8 = round(3.3333331174e-1);
/** ln 2 as the exact 355/512 and a small rest. */
const LN2_HIGH = 0.693359375;
const LN2_LOW = round(-2.1219444e-4);
const SQRT_HALF = round(Math.SQRT1_2);
const TWO_PI = round(2 * Math.PI);
const FOUR_OVER_PI = round(4 / Math.PI);
/** pi / 4 in three parts; the first two have so few bits that their small multiples are exact. */
const PI_4_HIGH = 0.78515625;
const PI_4_MIDDLE = 2.4187564849853516e-4;
const PI_4_LOW = round(3.774894977445941e-8);
const SIN_0 = round(-1.9515295891e-4);
const SIN_1 = round(8.3321608736e-3);
const SIN_2 = round(-1.6666654611e-1);
const COS_0 = round(2.443315711809948e-5);
const COS_1 = round(-1.388731625493765e-3);
const COS_2 = round(4.166664568298827e-2);
const SMALLEST_NORMAL = 2 ** -126;

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** Natural logarithm of a float32 in (0, 1]. */
export function logFloat(value: number): number {
  scratchFloat[0] = Math.max(value, SMALLEST_NORMAL);
  const bits = scratchBits[0] as number;
  let exponent = (bits >>> 23) - 126;
  scratchBits[0] = (bits & 0x007fffff) | 0x3f000000;
  let x = scratchFloat[0] as number; // In [0.5, 1).
  if (x < SQRT_HALF) {
    exponent -= 1;
    x = round(round(x - 1) + x);
  } else {
    x = round(x - 1);
  }
  const z = round(x * x);
  let y = round(LOG_0 * x + LOG_1);
  y = round(y * x + LOG_2);
  y = round(y * x + LOG_3);
  y = round(y * x + LOG_4);
  y = round(y * x + LOG_5);
  y = round(y * x + LOG_6);
  y = round(y * x + LOG_7);
  y = round(y * x + LOG_8);
  y = round(y * x);
  y = round(y * z + round(exponent * LN2_LOW));
  y = round(y - z * 0.5);
  return round(round(x + y) + exponent * LN2_HIGH);
}

/** Turns data[begin .. begin + 16) from uniforms in [0, 1) into standard normals. */
export function boxMuller16(data: Float32Array, begin: number): void {
  for (let lane = begin; lane < begin + 8; lane++) {
    const radius = round(Math.sqrt(round(-2 * logFloat(round(1 - (data[lane] as number))))));
    const angle = round(TWO_PI * (data[lane + 8] as number));
    const octant = (Math.trunc(round(angle * FOUR_OVER_PI)) + 1) & ~1;
    let x = round(angle - octant * PI_4_HIGH);
    x = round(x - octant * PI_4_MIDDLE);
    x = round(x - octant * PI_4_LOW);
    const z = round(x * x);
    let cosine = round(COS_0 * z + COS_1);
    cosine = round(cosine * z + COS_2);
    cosine = round(cosine * z);
    cosine = round(round(cosine * z - z * 0.5) + 1);
    let sine = round(SIN_0 * z + SIN_1);
    sine = round(sine * z + SIN_2);
    sine = round(sine * z);
    sine = round(sine * x + x);
    // Every second octant pair swaps the two; signs follow the quadrant.
    const isSwapped = (octant & 2) !== 0;
    const sineSign = octant & 4 ? -1 : 1;
    const cosineSign = (octant - 2) & 4 ? 1 : -1;
    data[lane] = radius * (cosineSign * (isSwapped ? sine : cosine));
    data[lane + 8] = radius * (sineSign * (isSwapped ? cosine : sine));
  }
}
