import { expect, test } from "vitest";
import { TEST_CHECKPOINT } from "../../test/support/test-daemon.ts";
import { LunaError } from "../kernel/index.ts";
import type { Request } from "../protocol/index.ts";
import { DTYPE_BYTES, type DType, type Tensor } from "../tensor/index.ts";
import { textInputs, unetInputs, vaeInputs } from "./run-inputs.ts";

const tensor = (shape: number[], dtype: DType = "F32"): Tensor => ({
  dtype,
  shape,
  bytes: new Uint8Array(shape.reduce((a, b) => a * b, DTYPE_BYTES[dtype])),
});
const step = (changes: Record<string, Tensor | undefined> = {}) => {
  const all = { x: tensor([2, 4, 9, 7]), timesteps: tensor([2]), context: tensor([2, 154, 8]) };
  const entries = Object.entries({ ...all, ...changes });
  return new Map(entries.flatMap(([name, value]) => (value ? [[name, value] as const] : [])));
};
function problem(act: () => unknown): string {
  try {
    act();
    return "fine";
  } catch (error) {
    return error instanceof LunaError ? `${error.code} ${error.message}` : `unexpected ${error}`;
  }
}

test("a step becomes float32 rows with a key of its shapes", () => {
  const inputs = unetInputs(step({ x: tensor([2, 4, 9, 7], "F16") }), TEST_CHECKPOINT);
  expect(inputs).toMatchObject({ rows: 2, rowsMax: 16, dtype: "F16", shapeKey: "9x7" });
  expect(inputs).toMatchObject({ tokens: 154, rowCost: 63, isSplittable: true });
  expect(inputs.tensors.get("x")?.dtype).toBe("F32");
});

test("the shape is in the key; types, rows, context length and control are not", () => {
  const key = (changes: Record<string, Tensor>) =>
    unetInputs(step(changes), TEST_CHECKPOINT).shapeKey;
  const control = { "control.middle.0": tensor([1, 32, 9, 7]) };
  expect(key({ x: tensor([2, 4, 9, 7], "BF16") })).toBe(key({}));
  expect(key({ x: tensor([2, 4, 7, 9]) })).not.toBe(key({}));
  expect(key({ context: tensor([2, 77, 8]) })).toBe(key({}));
  expect(key(control)).toBe(key({}));
});

test("large latents run alone, small ones sixteen at once", () => {
  const rowsMax = (side: number) =>
    unetInputs(step({ x: tensor([2, 4, side, side]) }), TEST_CHECKPOINT).rowsMax;
  expect([8, 64, 128, 256].map(rowsMax)).toEqual([16, 16, 4, 1]);
});

test.each([
  [{ x: undefined }, /"x" \[any, 4, any, any\] is missing/],
  [{ x: tensor([2, 9, 8, 8]) }, /"x" is \[2, 9, 8, 8\]/],
  [{ x: tensor([2, 4, 0, 8]) }, /is needed/],
  [{ x: tensor([2, 4, 8, 8], "I64") }, /I64/],
  [{ timesteps: tensor([1]) }, /"timesteps"/],
  [{ context: tensor([1, 77, 8]) }, /"context"/],
  [{ context: tensor([2, 77, 9]) }, /"context"/],
  [{ context: tensor([2, 5000, 8]) }, /^LIMIT_EXCEEDED Context tokens: 5000, limit 4096/],
  [{ x: tensor([2, 4, 512, 512]) }, /^LIMIT_EXCEEDED/],
  [{ y: tensor([2, 16]) }, /no "y"/],
  [{ extra: tensor([1]) }, /"extra" is not one of/],
  [{ "control.output.0": tensor([3, 4, 8, 8]) }, /3 rows, 1 or 2/],
  [{ "control.sideways.0": tensor([1, 4, 8, 8]) }, /is not one of/],
])("a step with %j is refused", (changes, expected) => {
  expect(problem(() => unetInputs(step(changes), TEST_CHECKPOINT))).toMatch(expected);
});

const text = (extra: Partial<Request<"clip_encode">> = {}): Request<"clip_encode"> => ({
  ...{ type: "request", id: 1, op: "clip_encode", model: "m" },
  ...{ encoder: "clip-l", layer: -1, isLayerNormed: true },
  ...extra,
});
const integers = (shape: number[], values: number[]): Tensor => ({
  dtype: "I64",
  shape,
  bytes: new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
});

test("text rows are checked against the vocabulary, embeddings against their places", () => {
  const tokens = tensor([1, 77], "I64");
  const check = (tensors: Record<string, Tensor>, extra = {}) =>
    problem(() => textInputs(new Map(Object.entries(tensors)), TEST_CHECKPOINT, text(extra)));
  const embeddings = tensor([1, 8], "F16");
  expect(check({ tokens })).toBe("fine");
  expect(check({ tokens }, { layer: -4 })).toMatch(/3 layers/);
  expect(check({ tokens }, { encoder: "clip-g" })).toMatch(/no clip-g/);
  expect(check({ tokens: tensor([1, 77], "F32") })).toMatch(/type I64/);
  expect(check({ tokens: integers([1, 77], Array(77).fill(49408)) })).toMatch(/49408/);
  const place = integers([1, 2], [0, 76]);
  expect(check({ tokens, embeddings, embedding_positions: place })).toBe("fine");
  expect(check({ tokens, embeddings })).toMatch(/"embedding_positions"/);
  expect(check({ tokens, embedding_positions: place })).toMatch(/missing/);
  const beyond = integers([1, 2], [1, 0]);
  expect(check({ tokens, embeddings, embedding_positions: beyond })).toMatch(/stands at 1 of 1/);
});

test("pictures must fit the latent's grid", () => {
  const image = new Map([["image", tensor([1, 3, 64, 60])]]);
  expect(problem(() => vaeInputs(image, TEST_CHECKPOINT, "image"))).toMatch(/multiples of 8/);
  const latent = new Map([["latent", tensor([1, 4, 9, 7])]]);
  expect(vaeInputs(latent, TEST_CHECKPOINT, "latent").shapeKey).toBe("9x7");
});
