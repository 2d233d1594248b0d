/** Items of a batch joined along axis 0 for one session run, and its outputs taken apart again. */
import { LunaError } from "../kernel/index.ts";
import { elementCount, type FloatTensor, type Tensor, toFloat } from "../tensor/index.ts";
import type { RunItem } from "./port.ts";

/** A tensor of an item as float32. Throws TENSOR_MALFORMED when the item lacks it. */
export function floatOf(item: RunItem, name: string): FloatTensor {
  return toFloat(tensorOf(item, name));
}

export function tensorOf(item: RunItem, name: string): Tensor {
  const tensor = item.tensors.get(name);
  if (tensor !== undefined) return tensor;
  throw new LunaError("TENSOR_MALFORMED", `The request has no tensor "${name}".`);
}

/** Rows of a batched tensor. */
export function rowsOf(tensor: Readonly<{ shape: readonly number[] }>): number {
  const [rows] = tensor.shape;
  if (rows !== undefined) return rows;
  throw new LunaError("TENSOR_MALFORMED", "A batched tensor needs an axis of rows.");
}

/** Joins along axis 0; one tensor alone is passed on without a copy. */
export function concatRows(tensors: readonly FloatTensor[], name: string): FloatTensor {
  const [first] = tensors;
  if (first === undefined || tensors.length === 1) return first ?? { shape: [0], data: NO_DATA };
  const inner = first.shape.slice(1);
  let rows = 0;
  for (const tensor of tensors) {
    if (tensor.shape.slice(1).join() !== inner.join()) {
      throw new LunaError(
        "TENSOR_MALFORMED",
        `"${name}" is [${tensor.shape.join(", ")}] and [${first.shape.join(", ")}] in one batch.`,
      );
    }
    rows += rowsOf(tensor);
  }
  const data = new Float32Array(rows * elementCount(inner));
  let offset = 0;
  for (const tensor of tensors) {
    data.set(tensor.data, offset);
    offset += tensor.data.length;
  }
  return { shape: [rows, ...inner], data };
}

const NO_DATA = new Float32Array(0);

/** The rows named, in their order; all of them in order are the tensor itself. */
export function gatherRows(tensor: FloatTensor, rows: readonly number[]): FloatTensor {
  const [own, ...inner] = tensor.shape;
  if (rows.length === own && rows.every((row, index) => row === index)) return tensor;
  const step = elementCount(inner);
  const data = new Float32Array(rows.length * step);
  for (const [index, row] of rows.entries()) {
    data.set(tensor.data.subarray(row * step, (row + 1) * step), index * step);
  }
  return { shape: [rows.length, ...inner], data };
}

/** Rows [begin, begin + count) as a view. */
export function sliceRows(tensor: FloatTensor, begin: number, count: number): FloatTensor {
  const inner = tensor.shape.slice(1);
  const step = elementCount(inner);
  return {
    shape: [count, ...inner],
    data: tensor.data.subarray(begin * step, (begin + count) * step),
  };
}

/** One row repeated `rows` times; a tensor with that many rows as it is. */
export function expandRows(tensor: FloatTensor, rows: number, name: string): FloatTensor {
  const own = rowsOf(tensor);
  if (own === rows) return tensor;
  if (own !== 1) {
    throw new LunaError("TENSOR_MALFORMED", `"${name}" has ${own} rows; 1 or ${rows} are needed.`);
  }
  const data = new Float32Array(tensor.data.length * rows);
  for (let row = 0; row < rows; row++) data.set(tensor.data, row * tensor.data.length);
  return { shape: [rows, ...tensor.shape.slice(1)], data };
}

/**
 * Contexts [rows, tokens, width] at one length: each is repeated to the least common multiple. That
 * is exact: attention over keys that stand there n times each is attention over the keys.
 */
export function repeatToCommonLength(contexts: readonly FloatTensor[]): readonly FloatTensor[] {
  const lengths = contexts.map(({ shape }) => shape[1] ?? 1);
  const common = lengths.reduce((all, length) => (all / divisor(all, length)) * length, 1);
  return contexts.map((context, index) => {
    const times = common / (lengths[index] ?? 1);
    if (times === 1) return context;
    const [rows = 0, tokens = 0, width = 0] = context.shape;
    const size = tokens * width;
    const data = new Float32Array(context.data.length * times);
    for (let row = 0; row < rows; row++) {
      const own = context.data.subarray(row * size, (row + 1) * size);
      for (let copy = 0; copy < times; copy++) data.set(own, (row * times + copy) * size);
    }
    return { shape: [rows, common, width], data };
  });
}

const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b));

/** Stands for "nothing is added": broadcast against any [batch, channels, height, width]. */
export const NO_CONTROL: FloatTensor = { shape: [1, 1, 1, 1], data: new Float32Array(1) };

/**
 * A ControlNet residual of a batch, of which each item has its own rows, one row for all of its
 * rows, or none: zeros then. `rows[i]` are the batch rows of item i.
 */
export function controlRows(
  parts: readonly (FloatTensor | undefined)[],
  rows: readonly number[],
  name: string,
): FloatTensor {
  const given = parts.find((part) => part !== undefined);
  if (given === undefined) return NO_CONTROL;
  if (parts.length === 1 && rowsOf(given) === 1) return given;
  const inner = given.shape.slice(1);
  const expanded = parts.map((part, index) => {
    const count = rows[index] ?? 0;
    if (part !== undefined) return expandRows(part, count, name);
    return { shape: [count, ...inner], data: new Float32Array(count * elementCount(inner)) };
  });
  return concatRows(expanded, name);
}
