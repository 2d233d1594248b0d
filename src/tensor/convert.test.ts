import fc from "fast-check";
import { expect, test } from "vitest";
import { digestTensor, encodeHalf, fromFloat, type Tensor, toFloat } from "./index.ts";

const halves = (codes: number[]): Tensor => ({
  dtype: "F16",
  shape: [codes.length],
  bytes: new Uint8Array(Uint16Array.from(codes).buffer),
});

test("every finite half survives a round trip", () => {
  const codes = Array.from({ length: 65536 }, (_, code) => code).filter(
    (code) => (code & 0x7c00) !== 0x7c00,
  );
  const values = toFloat(halves(codes)).data;
  expect(codes.filter((code, i) => encodeHalf(values[i] ?? Number.NaN) !== code)).toEqual([]);
});

test.each([
  [1, 0x3c00],
  [65504, 0x7bff],
  [65519.99, 0x7bff],
  [65520, 0x7c00],
  [2 ** -24, 1],
  [2 ** -25, 0],
  [1.5 * 2 ** -24, 2],
  [1 + 2 ** -11, 0x3c00],
  [1 + 3 * 2 ** -11, 0x3c02],
  [-0, 0x8000],
  [Number.POSITIVE_INFINITY, 0x7c00],
])("%d rounds to the half 0x%s", (value, code) => {
  expect(encodeHalf(value)).toBe(code);
});

test("bfloat16 keeps eight bits of precision and rounds to even", () => {
  fc.assert(
    fc.property(
      fc.float({ noNaN: true, noDefaultInfinity: true, min: -(2 ** 100), max: 2 ** 100 }),
      (value) => {
        const back = toFloat(fromFloat({ shape: [1], data: Float32Array.of(value) }, "BF16"))
          .data[0];
        expect(Math.abs((back ?? Number.NaN) - value)).toBeLessThanOrEqual(
          Math.abs(value) * 2 ** -8 + 2 ** -133,
        );
      },
    ),
  );
});

test("8-bit floats have the values of their specification", () => {
  const read = (dtype: "F8_E4M3" | "F8_E5M2", code: number) =>
    toFloat({ dtype, shape: [1], bytes: Uint8Array.of(code) }).data[0];
  expect(read("F8_E4M3", 0x7e)).toBe(448);
  expect(read("F8_E4M3", 0x7f)).toBeNaN();
  expect(read("F8_E4M3", 0x01)).toBe(2 ** -9);
  expect(read("F8_E4M3", 0xb8)).toBe(-1);
  expect(read("F8_E5M2", 0x7b)).toBe(57344);
  expect(read("F8_E5M2", 0x7c)).toBe(Number.POSITIVE_INFINITY);
  expect(read("F8_E5M2", 0x01)).toBe(2 ** -16);
});

test("an aligned F32 tensor is viewed, an unaligned one copied", () => {
  const buffer = new ArrayBuffer(12);
  new Float32Array(buffer, 4)[0] = 3;
  const aligned = toFloat({ dtype: "F32", shape: [1], bytes: new Uint8Array(buffer, 4, 4) });
  expect(aligned.data.buffer).toBe(buffer);
  const shifted = new Uint8Array(9);
  shifted.set(new Uint8Array(buffer, 4, 4), 5);
  expect(toFloat({ dtype: "F32", shape: [1], bytes: shifted.subarray(5) }).data[0]).toBe(3);
});

test("the digest names content, shape and type", () => {
  const bytes = new Uint8Array(8);
  const names = [
    digestTensor({ dtype: "F32", shape: [2], bytes }),
    digestTensor({ dtype: "F32", shape: [2, 1], bytes }),
    digestTensor({ dtype: "I32", shape: [2], bytes }),
    digestTensor({ dtype: "F32", shape: [2], bytes: bytes.slice().fill(1) }),
  ];
  expect(new Set(names).size).toBe(4);
  expect(names[0]).toMatch(/^sha256:[0-9a-f]{64}$/);
});

test("bytes of a Buffer that lie anywhere are read, also where a view could not begin", () => {
  for (const dtype of ["F32", "F16", "BF16"] as const) {
    const { bytes } = fromFloat({ shape: [2], data: Float32Array.of(1, -2) }, dtype);
    const shifted = Buffer.concat([Buffer.alloc(1), bytes]).subarray(1);
    expect([...toFloat({ dtype, shape: [2], bytes: shifted }).data]).toEqual([1, -2]);
  }
});
