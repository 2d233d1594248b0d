import { readFile } from "node:fs/promises";
import fc from "fast-check";
import { expect, test } from "vitest";
import { halvesModule } from "../../test/support/halves-module.ts";
import { decodeHalves, decodeTransposed, type HalfDType } from "./halves.ts";
import { toFloat } from "./index.ts";

const CODES = Uint16Array.from({ length: 1 << 16 }, (_, code) => code);
const bytesOf = (codes: Uint16Array) =>
  new Uint8Array(codes.buffer, codes.byteOffset, codes.byteLength);
/** Of large arrays `toEqual` takes long. */
function expectSameBits(actual: Float32Array, expected: Float32Array): void {
  const [a, b] = [actual, expected].map((values) =>
    Buffer.from(values.buffer, values.byteOffset, values.byteLength),
  );
  expect(a && b && Buffer.compare(a, b)).toBe(0);
}

/** The formats by their definition. */
function meaningOf(dtype: HalfDType, code: number): number {
  if (dtype === "BF16") return new Float32Array(Uint32Array.of(code << 16).buffer)[0] ?? 0;
  const [sign, exponent, mantissa] = [code >> 15 ? -1 : 1, (code >> 10) & 31, code & 1023];
  if (exponent === 31) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return (
    sign *
    (exponent === 0 ? mantissa / 1024 : 1 + mantissa / 1024) *
    2 ** Math.max(exponent - 15, -14)
  );
}
const isFiniteCode = (dtype: HalfDType, code: number) => Number.isFinite(meaningOf(dtype, code));

const dtypes = ["F16", "BF16"] as const;
const anyDType = fc.constantFrom(...dtypes);
/** Codes at any byte of a buffer. */
const bytesAt = (codes: Uint16Array, offset: number): Uint8Array => {
  const bytes = new Uint8Array(codes.byteLength + offset);
  bytes.set(bytesOf(codes), offset);
  return bytes.subarray(offset);
};
const finiteCodes = (dtype: HalfDType, length: number, seed: number): Uint16Array => {
  let state = seed;
  return Uint16Array.from({ length }, () => {
    do state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    while (!isFiniteCode(dtype, state >>> 16));
    return state >>> 16;
  });
};

test("halves-wasm.ts is what `npm run wasm` makes of halves.wat", async () => {
  const path = new URL("./halves-wasm.ts", import.meta.url);
  expect(await readFile(path, "utf8")).toBe(await halvesModule());
});

test.each(dtypes)("every code of %s has the bits of its value", (dtype) => {
  const { data } = toFloat({ dtype, shape: [CODES.length], bytes: bytesOf(CODES) });
  const values = Float32Array.from(CODES, (code) => meaningOf("F16", code));
  const shifted = Uint32Array.from(CODES, (code) => code << 16);
  expectSameBits(data, dtype === "F16" ? values : new Float32Array(shifted.buffer));
});

test.each(dtypes)("each NaN and infinity of %s is found, wherever it stands", (dtype) => {
  const into = new Float32Array(7);
  for (const code of CODES) {
    const codes = new Uint16Array(7);
    codes[code % 7] = code;
    const is = isFiniteCode(dtype, code);
    if (decodeHalves({ dtype, bytes: bytesOf(codes) }, into) !== is) throw new Error(`${code}`);
    const matrix = { rows: 7, columns: 1, factor: 0, into };
    if (decodeTransposed({ dtype, bytes: bytesOf(codes) }, matrix) !== is)
      throw new Error(`${code}`);
  }
});

test("what lay in the memory before does not count as a value", () => {
  const dtype = "F16";
  decodeHalves({ dtype, bytes: bytesOf(new Uint16Array(64).fill(0x7c00)) }, new Float32Array(64));
  const bytes = bytesOf(new Uint16Array(15));
  expect(decodeHalves({ dtype, bytes: bytes.subarray(0, 10) }, new Float32Array(5))).toBe(true);
  const matrix = { rows: 5, columns: 3, factor: 1, into: new Float32Array(15) };
  expect(decodeTransposed({ dtype, bytes }, matrix)).toBe(true);
});

test("values of any count, at any place of any buffer", () => {
  fc.assert(
    fc.property(
      fc.record({
        dtype: anyDType,
        count: fc.oneof(fc.nat(40), fc.integer({ min: 16_380, max: 40_000 })),
        offsets: fc.tuple(fc.nat(3), fc.nat(2000)),
        seed: fc.nat(),
      }),
      ({ dtype, count, offsets: [from, to], seed }) => {
        const codes = finiteCodes(dtype, count, seed);
        const around = new Float32Array(to + count + 1).fill(7);
        const into = around.subarray(to, to + count);
        expect(decodeHalves({ dtype, bytes: bytesAt(codes, from) }, into)).toBe(true);
        expectSameBits(
          into,
          Float32Array.from(codes, (code) => meaningOf(dtype, code)),
        );
        expect([to === 0 ? 7 : around[to - 1], around[to + count]]).toEqual([7, 7]);
      },
    ),
    { numRuns: 60 },
  );
});

test("matrices of any size are transposed and multiplied, rounded once", () => {
  const size = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 300 }));
  fc.assert(
    fc.property(
      fc.record({
        dtype: anyDType,
        rows: size,
        columns: size,
        factor: fc.constantFrom(1, 0.5, 1 / 3, 8 / 327, -1, 2.7, 0),
        offsets: fc.tuple(fc.nat(3), fc.nat(2000)),
        seed: fc.nat(),
      }),
      ({ dtype, rows, columns, factor, offsets: [from, to], seed }) => {
        const codes = finiteCodes(dtype, rows * columns, seed);
        const into = new Float32Array(to + rows * columns).subarray(to);
        const bytes = bytesAt(codes, from);
        expect(decodeTransposed({ dtype, bytes }, { rows, columns, factor, into })).toBe(true);
        const expected = Float32Array.from(into, (_, i) => {
          const code = codes[(i % rows) * columns + Math.floor(i / rows)] ?? 0;
          return meaningOf(dtype, code) * factor;
        });
        expectSameBits(into, expected);
      },
    ),
    { numRuns: 60 },
  );
});

test.each([
  [20_000, 1],
  [3001, 130],
  [5, 65_536],
])("a matrix of %d x %d is transposed in parts", (rows, columns) => {
  const codes = finiteCodes("F16", rows * columns, rows);
  const into = new Float32Array(rows * columns);
  decodeTransposed({ dtype: "F16", bytes: bytesOf(codes) }, { rows, columns, factor: 1, into });
  const { data } = toFloat({ dtype: "F16", shape: [codes.length], bytes: bytesOf(codes) });
  const expected = into.map((_, i) => data[(i % rows) * columns + Math.floor(i / rows)] ?? 0);
  expectSameBits(into, expected);
});
