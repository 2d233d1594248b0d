/**
 * Patches that depend on the weight they find, formulas as ComfyUI's comfy/weight_adapter:
 *   GLoRA  delta = W a1 a2 + up^T down, low rank once W is known
 *   DoRA   W' = W + s (D (W + delta) - W), D = magnitude / (norm + eps); the norm is that of W's rows,
 *          or of the columns of W + delta
 * so that all of them become one LowRank with its strength apart, unless the delta is dense. Weights
 * are [outputs, inputs * taps].
 */
import type { AdapterTarget } from "../graph/index.ts";
import type { LayerPatch, LowRank } from "./types.ts";

/** torch.finfo(torch.float32).eps, which ComfyUI adds to norms. */
const EPSILON = 2 ** -23;

export function isOrderDependent(patch: LayerPatch): boolean {
  const { multiply, inner, dense, magnitude } = patch;
  return [multiply, inner, dense, magnitude].some((part) => part !== undefined);
}

const tapsOf = ({ kernel }: AdapterTarget): number => kernel[0] * kernel[1];

/** The additive form of a patch without a dense part and multiply, on a layer whose weight is `weight` now. */
export function resolvePatch(
  patch: LayerPatch,
  weight: Float32Array,
  target: AdapterTarget,
): LowRank {
  const { bias, magnitude } = patch;
  const { rank, down, up } = patch.inner === undefined ? patch : withInner(patch, weight, target);
  const found = { rank, down, up, ...(bias && { bias }) };
  if (magnitude === undefined) return found;
  const { axis, values } = magnitude;
  const norms =
    axis === "row"
      ? rowNorms(weight, target)
      : columnNorms(applyLowRank(weight, found, { strength: 1, target }), target);
  const scale = perNorm(values, norms);
  const change = scale.map((value) => value - 1);
  if (axis === "row") return { ...found, row: change, up: scaleOutputs(up, scale) };
  return { ...found, column: change, down: scaleInputs(down, scale, tapsOf(target)) };
}

/** DoRA of a dense delta: the weight it makes of `weight`, a new array. */
export function applyMagnitude(
  weight: Float32Array,
  delta: Float32Array,
  { magnitude, strength, target }: DoraOptions,
): Float32Array {
  const { axis, values, deltaFactor = 1 } = magnitude;
  const changed = weight.map((value, i) => value + deltaFactor * (delta[i] as number));
  const norms = axis === "row" ? rowNorms(weight, target) : columnNorms(changed, target);
  const scale = perNorm(values, norms);
  const columns = weight.length / target.outputs;
  const taps = tapsOf(target);
  return weight.map((value, i) => {
    const place = axis === "row" ? Math.floor(i / columns) : Math.floor((i % columns) / taps);
    return value + strength * ((scale[place] as number) * (changed[i] as number) - value);
  });
}

type DoraOptions = Readonly<{
  magnitude: NonNullable<LayerPatch["magnitude"]>;
  strength: number;
  target: AdapterTarget;
}>;

const perNorm = (values: Float32Array, norms: Float64Array): Float32Array =>
  values.map((value, i) => value / ((norms[i] ?? 0) + EPSILON));

/** up [rank, outputs] with each output scaled. */
export function scaleOutputs(up: Float32Array, scale: Float32Array): Float32Array {
  return up.map((value, i) => value * (scale[i % scale.length] as number));
}

/** down [rank, inputs * taps] with each input channel scaled. */
export function scaleInputs(down: Float32Array, scale: Float32Array, taps: number): Float32Array {
  const columns = scale.length * taps;
  return down.map((value, i) => value * (scale[Math.floor((i % columns) / taps)] as number));
}

/** W a1 a2 beside the factors: for each tap of a kernel its own rows, (W a1) and a2 at that tap. */
function withInner(
  { rank, down, up, inner }: LayerPatch,
  weight: Float32Array,
  target: AdapterTarget,
): Pick<LowRank, "rank" | "down" | "up"> {
  if (inner === undefined) return { rank, down, up };
  const { outputs, inputs } = target;
  const taps = tapsOf(target);
  const columns = inputs * taps;
  const total = rank + inner.rank * taps;
  const joinedUp = new Float32Array(total * outputs);
  const joinedDown = new Float32Array(total * columns);
  joinedUp.set(up);
  joinedDown.set(down);
  for (let r = 0; r < inner.rank; r++) {
    for (let tap = 0; tap < taps; tap++) {
      const row = rank + r * taps + tap;
      for (let o = 0; o < outputs; o++) {
        let sum = 0;
        for (let i = 0; i < inputs; i++) {
          sum +=
            (weight[o * columns + i * taps + tap] as number) *
            (inner.a1[i * inner.rank + r] as number);
        }
        joinedUp[row * outputs + o] = sum;
      }
      for (let i = 0; i < inputs; i++) {
        joinedDown[row * columns + i * taps + tap] = inner.a2[r * inputs + i] as number;
      }
    }
  }
  return { rank: total, up: joinedUp, down: joinedDown };
}

function rowNorms(weight: Float32Array, { outputs }: AdapterTarget): Float64Array {
  const columns = weight.length / outputs;
  const norms = new Float64Array(outputs);
  for (let o = 0; o < outputs; o++) {
    norms[o] = Math.sqrt(squares(weight, o * columns, (o + 1) * columns));
  }
  return norms;
}

/** Four sums, because each add waits for its own. */
function squares(values: Float32Array, begin: number, end: number): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  let i = begin;
  for (; i + 4 <= end; i += 4) {
    const [p, q] = [values[i] as number, values[i + 1] as number];
    const [r, s] = [values[i + 2] as number, values[i + 3] as number];
    a += p * p;
    b += q * q;
    c += r * r;
    d += s * s;
  }
  for (; i < end; i++) a += (values[i] as number) * (values[i] as number);
  return a + b + c + d;
}

function columnNorms(weight: Float32Array, target: AdapterTarget): Float64Array {
  const taps = tapsOf(target);
  const columns = target.inputs * taps;
  const norms = new Float64Array(target.inputs);
  for (let i = 0; i < weight.length; i++) {
    const channel = Math.floor((i % columns) / taps);
    norms[channel] = (norms[channel] as number) + (weight[i] as number) ** 2;
  }
  return norms.map(Math.sqrt);
}

/** The weight a change makes of `weight`: a new array. */
export function applyLowRank(
  weight: Float32Array,
  change: LowRank,
  { strength, target }: Readonly<{ strength: number; target: AdapterTarget }>,
): Float32Array {
  const { rank, up, down, row, column } = change;
  const { outputs } = target;
  const taps = tapsOf(target);
  const columns = target.inputs * taps;
  const result = new Float32Array(weight.length);
  for (let o = 0; o < outputs; o++) {
    const begin = o * columns;
    const r = 1 + strength * (row?.[o] ?? 0);
    for (let i = 0; i < columns; i++) {
      const c = column === undefined ? 1 : 1 + strength * (column[Math.floor(i / taps)] as number);
      result[begin + i] = r * c * (weight[begin + i] as number);
    }
    for (let k = 0; k < rank; k++) {
      const factor = strength * (up[k * outputs + o] as number);
      const from = k * columns;
      for (let i = 0; i < columns; i++) {
        result[begin + i] = (result[begin + i] as number) + factor * (down[from + i] as number);
      }
    }
  }
  return result;
}
