/**
 * Conversions between stored element types and float32. Formats: IEEE 754 binary16, bfloat16
 * (the upper half of binary32), and the OCP 8-bit floats E4M3 (no infinity) and E5M2,
 * https://www.opencompute.org/documents/ocp-8-bit-floating-point-specification-ofp8-revision-1-0-2023-12-01-pdf-1
 */
import { LunaError } from "../kernel/index.ts";
import { decodeHalves } from "./halves.ts";
import { type DType, elementCount, type FloatTensor, type Tensor } from "./tensor.ts";

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** Value of a small float with the given exponent and mantissa widths, subnormals included. */
function smallFloat(bits: number, exponentBits: number, mantissaBits: number): number {
  const sign = bits >> (exponentBits + mantissaBits) ? -1 : 1;
  const exponent = (bits >> mantissaBits) & ((1 << exponentBits) - 1);
  const mantissa = bits & ((1 << mantissaBits) - 1);
  const bias = (1 << (exponentBits - 1)) - 1;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits);
  return sign * (1 + mantissa / (1 << mantissaBits)) * 2 ** (exponent - bias);
}

function decodeHalf(bits: number): number {
  if ((bits & 0x7c00) !== 0x7c00) return smallFloat(bits, 5, 10);
  if (bits & 0x3ff) return Number.NaN;
  return bits & 0x8000 ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
}

function decodeE4M3(bits: number): number {
  return (bits & 0x7f) === 0x7f ? Number.NaN : smallFloat(bits, 4, 3);
}

function decodeE5M2(bits: number): number {
  return decodeHalf(bits << 8);
}

const table = (size: number, decode: (bits: number) => number): Float32Array =>
  Float32Array.from({ length: size }, (_, bits) => decode(bits));

let e4m3Table: Float32Array | undefined;
let e5m2Table: Float32Array | undefined;

/** Nearest binary16 of a float32, ties to even, as PyTorch rounds. */
export function encodeHalf(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0] ?? 0;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    const rounded = magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1);
    return sign | (rounded >>> 13);
  }
  // Subnormal halves are multiples of 2^-24; the product is exact, the tie rule is even.
  const scaled = Math.abs(scratchFloat[0] ?? 0) * 2 ** 24;
  const floor = Math.floor(scaled);
  const rest = scaled - floor;
  return sign | (floor + (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? 1 : 0));
}

function encodeBrain(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0] ?? 0;
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The bytes where a view of `size` may begin. Not `slice`: a Buffer's is no copy. */
function aligned(bytes: Uint8Array, size: number): Uint8Array {
  return bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes);
}

/**
 * Reads a tensor as float32. A view without a copy when it is F32 and aligned.
 * Integer types are read as their values. Throws TENSOR_MALFORMED for a wrong byte count.
 */
export function toFloat(tensor: Tensor): FloatTensor {
  const { bytes, shape } = tensor;
  const count = elementCount(shape);
  const data = decodeBytes(tensor.dtype, bytes);
  if (data.length !== count) {
    throw new LunaError(
      "TENSOR_MALFORMED",
      `${tensor.dtype} [${shape.join(", ")}] needs ${count} values, got ${data.length}.`,
    );
  }
  return { shape, data };
}

function decodeBytes(dtype: DType, bytes: Uint8Array): Float32Array {
  switch (dtype) {
    case "F32": {
      const source = aligned(bytes, 4);
      return new Float32Array(source.buffer, source.byteOffset, source.byteLength >> 2);
    }
    case "F16":
    case "BF16": {
      const data = new Float32Array(bytes.byteLength >> 1);
      const areFinite = decodeHalves({ dtype, bytes }, data);
      // A half's NaNs become one: their payloads mean nothing.
      if (dtype === "F16" && !areFinite) {
        for (const [i, value] of data.entries()) if (Number.isNaN(value)) data[i] = Number.NaN;
      }
      return data;
    }
    case "F8_E4M3":
      e4m3Table ??= table(256, decodeE4M3);
      return lookUp(bytes, e4m3Table);
    case "F8_E5M2":
      e5m2Table ??= table(256, decodeE5M2);
      return lookUp(bytes, e5m2Table);
    default:
      return decodeNumbers(dtype, bytes);
  }
}

function lookUp(codes: Uint8Array, values: Float32Array): Float32Array {
  const data = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) data[i] = values[codes[i] ?? 0] ?? 0;
  return data;
}

function decodeNumbers(
  dtype: Exclude<DType, "F32" | "F16" | "BF16" | "F8_E4M3" | "F8_E5M2">,
  bytes: Uint8Array,
): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const read = {
    F64: (at: number) => view.getFloat64(at, true),
    I64: (at: number) => Number(view.getBigInt64(at, true)),
    U64: (at: number) => Number(view.getBigUint64(at, true)),
    I32: (at: number) => view.getInt32(at, true),
    U32: (at: number) => view.getUint32(at, true),
    I16: (at: number) => view.getInt16(at, true),
    U16: (at: number) => view.getUint16(at, true),
    I8: (at: number) => view.getInt8(at),
    U8: (at: number) => view.getUint8(at),
    BOOL: (at: number) => view.getUint8(at),
  }[dtype];
  const step = { F64: 8, I64: 8, U64: 8, I32: 4, U32: 4, I16: 2, U16: 2, I8: 1, U8: 1, BOOL: 1 };
  return Float32Array.from({ length: bytes.byteLength / step[dtype] }, (_, i) =>
    read(i * step[dtype]),
  );
}

/** Stores float32 values as F32 (a view, no copy), F16 or BF16 (nearest, ties to even). */
export function fromFloat(tensor: FloatTensor, dtype: "F32" | "F16" | "BF16" = "F32"): Tensor {
  const { data, shape } = tensor;
  if (dtype === "F32") {
    return { dtype, shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
  }
  const encode = dtype === "F16" ? encodeHalf : encodeBrain;
  const stored = new Uint16Array(data.length);
  for (let i = 0; i < data.length; i++) stored[i] = encode(data[i] ?? 0);
  return { dtype, shape, bytes: new Uint8Array(stored.buffer) };
}
