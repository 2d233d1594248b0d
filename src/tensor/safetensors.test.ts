import fc from "fast-check";
import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import {
  DTYPE_BYTES,
  type DType,
  elementCount,
  parseSafetensors,
  readSafetensorsHeader,
  serializeSafetensors,
  type Tensor,
} from "./index.ts";

const anyTensor: fc.Arbitrary<Tensor> = fc
  .record({
    dtype: fc.constantFrom(...(Object.keys(DTYPE_BYTES) as DType[])),
    shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }),
  })
  .map(({ dtype, shape }) => ({
    dtype,
    shape,
    bytes: Uint8Array.from(
      { length: elementCount(shape) * DTYPE_BYTES[dtype] },
      (_, i) => (i * 31) & 0xff,
    ),
  }));
const anyFile = fc.dictionary(
  fc.string({ minLength: 1, maxLength: 20 }).filter((name) => !name.startsWith("__")),
  anyTensor,
  { maxKeys: 6 },
);

function fileOf(header: unknown, data = new Uint8Array(64)): Uint8Array {
  const json = new TextEncoder().encode(
    typeof header === "string" ? header : JSON.stringify(header),
  );
  const bytes = new Uint8Array(8 + json.byteLength + data.byteLength);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.byteLength), true);
  bytes.set(json, 8);
  bytes.set(data, 8 + json.byteLength);
  return bytes;
}

test("what is written is read back, aligned to its element size", () => {
  fc.assert(
    fc.property(
      anyFile,
      fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }),
      (file, metadata) => {
        const tensors = new Map(Object.entries(file));
        const parsed = parseSafetensors(serializeSafetensors(tensors, metadata));
        expect({ ...parsed.metadata }).toEqual({ ...metadata });
        expect(parsed.tensors.size).toBe(tensors.size);
        for (const [name, tensor] of tensors) {
          const read = parsed.tensors.get(name);
          expect(read?.dtype).toBe(tensor.dtype);
          expect(read?.shape).toEqual(tensor.shape);
          expect([...(read?.bytes ?? [])]).toEqual([...tensor.bytes]);
          expect((read?.bytes.byteOffset ?? 0) % DTYPE_BYTES[tensor.dtype]).toBe(0);
        }
      },
    ),
  );
});

test("a header can be read without its data", async () => {
  const tensors = new Map<string, Tensor>([
    ["a", { dtype: "F32", shape: [2], bytes: new Uint8Array(8) }],
  ]);
  const file = serializeSafetensors(tensors);
  const header = await readSafetensorsHeader(
    async (offset, length) => file.subarray(offset, offset + length),
    file.byteLength,
  );
  expect(header.tensors.get("a")).toMatchObject({ begin: header.dataBegin, shape: [2] });
});

const entry = (changes: object) => ({
  a: { dtype: "F32", shape: [4], data_offsets: [0, 16], ...changes },
});
test.each([
  ["a length past the end", new Uint8Array([255, 255, 255, 0, 0, 0, 0, 0])],
  ["a length above the limit", new Uint8Array(8).fill(255)],
  ["too few bytes", new Uint8Array(3)],
  ["JSON that is none", fileOf("{")],
  ["an array for a header", fileOf([])],
  ["an unknown dtype", fileOf(entry({ dtype: "F33" }))],
  ["a dtype of the prototype", fileOf(entry({ dtype: "constructor" }))],
  ["a negative axis", fileOf(entry({ shape: [-4] }))],
  ["a fractional axis", fileOf(entry({ shape: [0.5, 8] }))],
  ["a product beyond safe integers", fileOf(entry({ shape: [2 ** 40, 2 ** 40] }))],
  ["too many axes", fileOf(entry({ shape: Array(9).fill(1) }))],
  ["a shape that needs other bytes", fileOf(entry({ shape: [5] }))],
  ["offsets past the end", fileOf(entry({ shape: [40], data_offsets: [0, 160] }))],
  ["reversed offsets", fileOf(entry({ data_offsets: [16, 0] }))],
  ["offsets that are no numbers", fileOf(entry({ data_offsets: ["0", "16"] }))],
  ["metadata that is no string", fileOf({ __metadata__: { a: 1 }, ...entry({}) })],
  [
    "overlapping tensors",
    fileOf({ ...entry({}), b: { dtype: "F32", shape: [4], data_offsets: [8, 24] } }),
  ],
])("%s is TENSOR_MALFORMED", (_, bytes) => {
  expect(() => parseSafetensors(bytes)).toThrowError(
    expect.objectContaining({ name: "LunaError", code: "TENSOR_MALFORMED" }),
  );
});

test("ten thousand hostile headers each give a file or one clear error", () => {
  const valid = serializeSafetensors(
    new Map<string, Tensor>([
      ["x", { dtype: "F32", shape: [2, 2], bytes: new Uint8Array(16) }],
      ["y", { dtype: "F16", shape: [3], bytes: new Uint8Array(6) }],
    ]),
    { luna: "{}" },
  );
  const mutated = fc
    .array(fc.tuple(fc.nat(valid.byteLength - 1), fc.nat(255)), { minLength: 1, maxLength: 8 })
    .map((changes) => {
      const bytes = valid.slice();
      for (const [at, value] of changes) bytes[at] = value;
      return bytes;
    });
  const hostile = fc.oneof(
    mutated,
    fc.nat(valid.byteLength).map((length) => valid.slice(0, length)),
    fc.uint8Array({ maxLength: 200 }),
    fc.json().map((json) => fileOf(json)),
    fc
      .record({
        dtype: fc.constantFrom<unknown>("F32", "F16", "NO", 7, null),
        shape: fc.oneof(
          fc.array(fc.oneof(fc.integer(), fc.double(), fc.maxSafeInteger())),
          fc.string(),
        ),
        data_offsets: fc.oneof(
          fc.array(fc.oneof(fc.integer(), fc.maxSafeNat())),
          fc.constant(null),
        ),
      })
      .map((a) => fileOf({ a })),
  );
  fc.assert(
    fc.property(hostile, (bytes) => {
      try {
        parseSafetensors(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(LunaError);
        expect((error as LunaError).code).toBe("TENSOR_MALFORMED");
      }
    }),
    { numRuns: 10_000 },
  );
});
