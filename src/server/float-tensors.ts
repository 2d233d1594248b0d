import { LunaError } from "../kernel/index.ts";
import { fromFloat, type Tensor, toFloat } from "../tensor/index.ts";

/** Element types a client may send values in; the answer comes in that of its main tensor. */
export type WireDType = "F32" | "F16" | "BF16";

export function isWireDType(dtype: string): dtype is WireDType {
  return dtype === "F32" || dtype === "F16" || dtype === "BF16";
}

/** The engine is given float32. A tensor that has it already is passed on, not copied. */
export function toF32(name: string, tensor: Tensor): Tensor {
  if (tensor.dtype === "F32") return tensor;
  if (isWireDType(tensor.dtype)) return fromFloat(toFloat(tensor));
  throw new LunaError(
    "REQUEST_INVALID",
    `Tensor "${name}" has the type ${tensor.dtype}: send F32, F16 or BF16.`,
  );
}

/** An output in the type the client computes in. */
export function toWire(tensor: Tensor, dtype: WireDType): Tensor {
  return tensor.dtype === dtype ? tensor : fromFloat(toFloat(tensor), dtype);
}
