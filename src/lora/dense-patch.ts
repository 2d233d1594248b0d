/** Changes of a whole weight, as ComfyUI computes them. Weights are [outputs, rest], row-major. */
import type { DensePatch } from "./types.ts";

/** The weight a dense patch makes of `weight`: a new array. */
export function applyDense(
  weight: Float32Array,
  patch: DensePatch,
  strength: number,
): Float32Array {
  if (patch.type === "replacement") return patch.values; // ComfyUI heeds no strength here.
  const delta = denseDelta(weight, patch, strength);
  return weight.map((value, i) => value + strength * (delta[i] as number));
}

/**
 * What the strength scales. Those of OFT and BOFT hold it already: ComfyUI applies it a second time.
 */
export function denseDelta(
  weight: Float32Array,
  patch: Exclude<DensePatch, { type: "replacement" }>,
  strength: number,
): Float32Array {
  switch (patch.type) {
    case "difference":
      return patch.values;
    case "oft":
      return rotateBlocks(weight, patch, strength);
    case "boft":
      return butterfly(weight, patch, strength);
  }
}

/** s (R - I)^T W, block by block. */
function rotateBlocks(
  weight: Float32Array,
  { rotations, count, size }: Extract<DensePatch, { type: "oft" }>,
  strength: number,
): Float32Array {
  const columns = weight.length / (count * size);
  const result = new Float32Array(weight.length);
  for (let k = 0; k < count; k++) {
    for (let m = 0; m < size; m++) {
      const to = (k * size + m) * columns;
      for (let n = 0; n < size; n++) {
        const factor = strength * (rotations[(k * size + n) * size + m] as number);
        addRow(result, to, { weight, from: (k * size + n) * columns, factor, columns });
      }
    }
  }
  return result;
}

function addRow(
  result: Float32Array,
  to: number,
  row: Readonly<{ weight: Float32Array; from: number; factor: number; columns: number }>,
): void {
  const { weight, from, factor, columns } = row;
  if (factor === 0) return;
  for (let i = 0; i < columns; i++) {
    result[to + i] = (result[to + i] as number) + factor * (weight[from + i] as number);
  }
}

/**
 * B W - W, B the product of the stages I + s (R - I), each over rows in another order: in
 * stage i, rows that lie k = 2^i size / 2 apart meet in one block.
 */
function butterfly(
  weight: Float32Array,
  patch: Extract<DensePatch, { type: "boft" }>,
  strength: number,
): Float32Array {
  const { rotations, stages, count, size, rescale } = patch;
  const outputs = count * size;
  const columns = weight.length / outputs;
  let current = weight;
  for (let stage = 0; stage < stages; stage++) {
    const order = rowOrder(outputs, 2 ** stage * Math.floor(size / 2));
    const next = current.slice();
    for (let row = 0; row < outputs; row++) {
      const block = Math.floor(row / size);
      for (let n = 0; n < size; n++) {
        const at = ((stage * count + block) * size + (row % size)) * size + n;
        const from = (order[block * size + n] as number) * columns;
        const factor = strength * (rotations[at] as number);
        addRow(next, (order[row] as number) * columns, { weight: current, from, factor, columns });
      }
    }
    current = next;
  }
  return weight.map((value, i) => {
    const scale =
      rescale === undefined ? 1 : (rescale[Math.floor(i / columns) % rescale.length] as number);
    return (current[i] as number) * scale - value;
  });
}

/** unflatten(-1, 2, k), swap, flatten: position p of the new order holds this row. */
function rowOrder(outputs: number, k: number): Uint32Array {
  return Uint32Array.from({ length: outputs }, (_, p) => {
    const group = Math.floor(p / (2 * k));
    const inside = p % (2 * k);
    return group * 2 * k + (inside % 2) * k + Math.floor(inside / 2);
  });
}

/** (I + Q)(I - Q)^-1 - I = 2 Q (I - Q)^-1 of each block, Q = B - B^T with its norm limited. */
export function cayley(
  blocks: Float32Array,
  { size, limit }: Readonly<{ size: number; limit: number }>,
): Float32Array {
  const area = size * size;
  const skew = new Float64Array(blocks.length);
  let norm = 0;
  for (let i = 0; i < blocks.length; i++) {
    const [at, inside] = [Math.floor(i / area) * area, i % area];
    const mirrored = at + (inside % size) * size + Math.floor(inside / size);
    skew[i] = (blocks[i] as number) - (blocks[mirrored] as number);
    norm += (skew[i] as number) ** 2;
  }
  norm = Math.sqrt(norm) + 1e-8;
  const factor = limit > 0 && norm > limit ? limit / norm : 1;
  const result = new Float32Array(blocks.length);
  for (let begin = 0; begin < blocks.length; begin += area) {
    const q = skew.subarray(begin, begin + area).map((value) => value * factor);
    result.set(cayleyBlock(q, size), begin);
  }
  return result;
}

/** X = 2 Q (I - Q)^-1 solves X (I - Q) = 2 Q; transposed, (I + Q) X^T = -2 Q, by elimination. */
function cayleyBlock(q: Float64Array, size: number): Float64Array {
  const width = 2 * size;
  const system = new Float64Array(size * width);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const value = q[row * size + column] as number;
      system[row * width + column] = value + (row === column ? 1 : 0);
      system[row * width + size + column] = -2 * value;
    }
  }
  // I + Q with Q skew-symmetric has a positive definite symmetric part: no pivoting is needed.
  for (let pivot = 0; pivot < size; pivot++) {
    const inverse = 1 / (system[pivot * width + pivot] as number);
    for (let i = pivot; i < width; i++) {
      system[pivot * width + i] = (system[pivot * width + i] as number) * inverse;
    }
    for (let row = 0; row < size; row++) {
      const factor = system[row * width + pivot] as number;
      if (row === pivot || factor === 0) continue;
      for (let i = pivot; i < width; i++) {
        system[row * width + i] =
          (system[row * width + i] as number) - factor * (system[pivot * width + i] as number);
      }
    }
  }
  const result = new Float64Array(size * size);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      result[row * size + column] = system[column * width + size + row] as number;
    }
  }
  return result;
}
