/**
 * Two-byte floats (F16, BF16) to float32 in bulk: a LoRA has tens of millions, and its first step
 * waits for them. In WebAssembly SIMD (halves.wat), which every supported Node has: four times as
 * fast as a table in JavaScript.
 */
import assert from "node:assert/strict";
import { HALVES_WASM } from "./halves-wasm.ts";
import type { DType } from "./tensor.ts";

export type HalfDType = "F16" | "BF16";

export const isHalf = (dtype: DType): dtype is HalfDType => dtype === "F16" || dtype === "BF16";

type Kernels = Readonly<{
  memory: { readonly buffer: ArrayBuffer };
  half: (from: number, to: number, count: number) => number;
  brain: Kernels["half"];
  scale: (at: number, count: number, factor: number) => void;
  transpose: (...positionsAndSizes: readonly number[]) => void;
}>;

/** What is used of it; Node's types leave it to those of browsers. */
declare const WebAssembly: Readonly<{
  Module: new (code: Uint8Array) => object;
  Instance: new (module: object) => Readonly<{ exports: unknown }>;
}>;

/** Values decoded before they are copied on: codes and values stay in a core's cache. */
const VALUES = 1 << 14;
/** Codes of the rows that are transposed at once. */
const CODES = 1 << 18;
const TILE = 4;
/** Rows transposed in one go: the lines of the cache that they lie in are used up meanwhile. */
const ROWS = 128;
const PAGE = 4096;

/** Byte offsets in the memory: codes as they come, transposed, and values within a page more. */
const SOURCE = 0;
const TRANSPOSED = SOURCE + 2 * CODES;
const DECODED = TRANSPOSED + 2 * CODES;

type Loaded = Readonly<{ kernels: Kernels; bytes: Uint8Array; values: Float32Array }>;
let loaded: Loaded | undefined;

function load(): Loaded {
  if (loaded !== undefined) return loaded;
  const code = Uint8Array.from(atob(HALVES_WASM), (character) => character.charCodeAt(0));
  const kernels = new WebAssembly.Instance(new WebAssembly.Module(code)).exports as Kernels;
  const { buffer } = kernels.memory;
  loaded = { kernels, bytes: new Uint8Array(buffer), values: new Float32Array(buffer) };
  return loaded;
}

const roundUp = (count: number): number => Math.ceil(count / TILE) * TILE;

/**
 * Where to decode what is copied to `position` of `into` then. A copy takes five times as long (AMD Zen 3)
 * where source and target lie equally in their pages, so they lie half a page apart. Large buffers
 * begin at a page.
 */
function decodedAt(into: Float32Array, position: number): number {
  const target = into.byteOffset + position * Float32Array.BYTES_PER_ELEMENT;
  return DECODED + (((target + PAGE / 2) % PAGE) & -16);
}

type Halves = Readonly<{ dtype: HalfDType; bytes: Uint8Array }>;

/** Decodes codes that lie in the memory, and copies their values to `position`. False if one is not finite. */
function emit(
  { dtype, from, count }: Readonly<{ dtype: HalfDType; from: number; count: number }>,
  into: Float32Array,
  { position, factor }: Readonly<{ position: number; factor: number }>,
): boolean {
  const { kernels, values } = load();
  const decode = dtype === "F16" ? kernels.half : kernels.brain;
  let areFinite = true;
  for (let begin = 0; begin < count; begin += VALUES) {
    const length = Math.min(VALUES, count - begin);
    const at = decodedAt(into, position + begin);
    if (decode(from + 2 * begin, at, length) === 0) areFinite = false;
    if (factor !== 1) kernels.scale(at, length, factor);
    into.set(values.subarray(at / 4, at / 4 + length), position + begin);
  }
  return areFinite;
}

/** Puts the values into `into`, in order. False if one is NaN or infinite. */
export function decodeHalves({ dtype, bytes }: Halves, into: Float32Array): boolean {
  assert(bytes.byteLength >= 2 * into.length, "There is a code for each value.");
  const { bytes: memory } = load();
  let areFinite = true;
  for (let position = 0; position < into.length; position += VALUES) {
    const count = Math.min(VALUES, into.length - position);
    memory.set(bytes.subarray(2 * position, 2 * (position + count)), SOURCE);
    memory.fill(0, SOURCE + 2 * count, SOURCE + 2 * roundUp(count));
    if (!emit({ dtype, from: SOURCE, count }, into, { position, factor: 1 })) areFinite = false;
  }
  return areFinite;
}

/**
 * As `decodeHalves`, for a matrix [rows, columns] that is put into `into` as [columns, rows] times
 * `factor`, rounded once. Whether the values are finite is told of them before that product.
 */
export function decodeTransposed(
  { dtype, bytes }: Halves,
  options: Readonly<{ rows: number; columns: number; factor: number; into: Float32Array }>,
): boolean {
  const { rows, columns, factor, into } = options;
  assert(bytes.byteLength >= 2 * rows * columns, "There is a code for each value.");
  const rowsMax = Math.floor(CODES / roundUp(columns) / TILE) * TILE;
  assert(rowsMax > 0, "A factor's rank is limited.");
  let areFinite = true;
  for (let begin = 0; begin < rows; begin += rowsMax) {
    const count = Math.min(rowsMax, rows - begin);
    const stride = transposeRows(bytes.subarray(2 * begin * columns), count, columns);
    // Columns that are whole and without gaps are one run of values.
    const runs = count === rows && stride === 2 * rows ? 1 : columns;
    for (let run = 0; run < runs; run++) {
      const codes = { dtype, from: TRANSPOSED + run * stride, count: (count * columns) / runs };
      if (!emit(codes, into, { position: run * rows + begin, factor })) areFinite = false;
    }
  }
  return areFinite;
}

/** Puts the transposed codes of `rows` rows into the memory; the bytes from one column to the next. */
function transposeRows(bytes: Uint8Array, rows: number, columns: number): number {
  const { kernels, bytes: memory } = load();
  const stride = 2 * roundUp(rows);
  memory.set(bytes.subarray(0, 2 * rows * columns), SOURCE);
  memory.fill(0, SOURCE + 2 * rows * columns, SOURCE + stride * columns);
  for (let row = 0; row < rows; row += ROWS) {
    const [from, to] = [SOURCE + 2 * row * columns, TRANSPOSED + 2 * row];
    kernels.transpose(from, 2 * columns, to, stride, Math.min(ROWS, rows - row), columns);
  }
  return stride;
}
