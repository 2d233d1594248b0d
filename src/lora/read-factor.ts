/**
 * The factors of plain LoRAs, nearly all there is in practice, from the file's element type to what
 * the graph takes in one pass: decoded, checked, and transposed where that is needed.
 */
import {
  decodeHalves,
  decodeTransposed,
  elementCount,
  isHalf,
  type Tensor,
  toFloat,
} from "../tensor/index.ts";
import { isFinite32, transpose } from "./matrix.ts";

/** One piece of memory for many factors. All of it is alive as long as one factor is. */
export class FactorMemory {
  readonly #values: Float32Array;
  #used = 0;

  constructor(count: number) {
    // Not zeroed, which takes as long as writing the values: they are all written, or none is used.
    const { buffer } = Buffer.allocUnsafeSlow(count * Float32Array.BYTES_PER_ELEMENT);
    this.#values = new Float32Array(buffer, 0, count);
  }

  /** The next `count` values; memory of their own where no more are left. */
  take(count: number): Float32Array {
    const begin = this.#used;
    if (begin + count > this.#values.length) return new Float32Array(count);
    this.#used += count;
    return this.#values.subarray(begin, this.#used);
  }
}

/** How much of a `FactorMemory` reading a tensor takes. */
export function sharedCount({ dtype, shape }: Tensor): number {
  return isHalf(dtype) ? elementCount(shape) : 0;
}

/** All values in their order; undefined if one is NaN or infinite. */
export function readFactor(tensor: Tensor, memory: FactorMemory): Float32Array | undefined {
  const { dtype, shape, bytes } = tensor;
  if (!isHalf(dtype)) {
    const { data } = toFloat(tensor);
    return isFinite32(data) ? owned(data) : undefined;
  }
  const data = memory.take(elementCount(shape));
  return decodeHalves({ dtype, bytes }, data) ? data : undefined;
}

/** A matrix [rows, columns] as [columns, rows] times `factor`; undefined as in `readFactor`. */
export function readTransposed(
  tensor: Tensor,
  [rows, columns]: readonly [number, number],
  { factor, memory }: Readonly<{ factor: number; memory: FactorMemory }>,
): Float32Array | undefined {
  const { dtype, bytes } = tensor;
  if (!isHalf(dtype)) {
    const { data } = transpose({ rows, columns, data: toFloat(tensor).data }, factor);
    return isFinite32(data) ? data : undefined;
  }
  const into = memory.take(rows * columns);
  if (!decodeTransposed({ dtype, bytes }, { rows, columns, factor, into })) return undefined;
  // A finite value times a factor of at most 1 is finite.
  return Math.abs(factor) <= 1 || isFinite32(into) ? into : undefined;
}

/** A copy when the values are a view of the file, which would keep the whole file in memory. */
export function owned(data: Float32Array): Float32Array {
  return data.byteLength === data.buffer.byteLength ? data : data.slice();
}
