import { LunaError } from "../kernel/index.ts";
import { RANK_MAX } from "./limits.ts";

/** Element types of the safetensors format, with their bytes per element. */
export const DTYPE_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

export type DType = keyof typeof DTYPE_BYTES;

export function isDType(name: string): name is DType {
  return Object.hasOwn(DTYPE_BYTES, name);
}

/** A tensor as it lies in a safetensors file: row-major, little-endian. */
export type Tensor = Readonly<{ dtype: DType; shape: readonly number[]; bytes: Uint8Array }>;

/** A row-major float32 tensor to compute with. */
export type FloatTensor = Readonly<{ shape: readonly number[]; data: Float32Array }>;

/** Product of the axes; 1 for a scalar. Throws TENSOR_MALFORMED beyond safe integers. */
export function elementCount(shape: readonly number[]): number {
  if (shape.length > RANK_MAX) {
    throw new LunaError(
      "TENSOR_MALFORMED",
      `A tensor has ${shape.length} axes, limit ${RANK_MAX}.`,
    );
  }
  let count = 1;
  for (const axis of shape) {
    if (!Number.isSafeInteger(axis) || axis < 0) {
      throw new LunaError("TENSOR_MALFORMED", `A tensor axis is ${axis}: not a whole number >= 0.`);
    }
    count *= axis;
    if (!Number.isSafeInteger(count)) {
      throw new LunaError("TENSOR_MALFORMED", `Shape [${shape.join(", ")}] is too large.`);
    }
  }
  return count;
}

/** Makes a float tensor and checks that data and shape agree. */
export function floatTensor(shape: readonly number[], data?: Float32Array): FloatTensor {
  const count = elementCount(shape);
  const values = data ?? new Float32Array(count);
  if (values.length !== count) {
    throw new LunaError(
      "TENSOR_MALFORMED",
      `Shape [${shape.join(", ")}] needs ${count} values, got ${values.length}.`,
    );
  }
  return { shape, data: values };
}
