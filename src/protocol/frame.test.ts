import fc from "fast-check";
import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { DTYPE_BYTES, type DType, serializeSafetensors, type Tensor } from "../tensor/index.ts";
import { decodeFrame, encodeFrame, joinFrame } from "./frame.ts";
import { FRAME_TENSORS_MAX } from "./limits.ts";

const ping = { type: "request", id: 1, op: "ping" } as const;

const anyTensor = fc
  .record({
    dtype: fc.constantFrom<DType>("F32", "F16", "I64", "U8"),
    shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }),
    seed: fc.nat(255),
  })
  .map(({ dtype, shape, seed }): Tensor => {
    const count = shape.reduce((product, axis) => product * axis, 1);
    return { dtype, shape, bytes: new Uint8Array(count * DTYPE_BYTES[dtype]).fill(seed) };
  });

function outcome(bytes: Uint8Array): string {
  try {
    decodeFrame(bytes);
    return "frame";
  } catch (error) {
    return error instanceof LunaError ? error.code : `unexpected ${error}`;
  }
}

test("what is encoded is decoded again, whatever the tensors", () => {
  const tensors = fc.dictionary(fc.string({ minLength: 1, maxLength: 20 }), anyTensor);
  const property = fc.property(tensors, fc.json(), (given, text) => {
    const named = new Map(Object.entries(given).filter(([name]) => name !== "__metadata__"));
    const message = { ...ping, text };
    const frame = decodeFrame(joinFrame(encodeFrame(message, named)));
    expect(frame.message).toEqual(message);
    expect(new Map([...frame.tensors].sort())).toEqual(new Map([...named].sort()));
  });
  fc.assert(property, { numRuns: 200 });
});

test("a frame cut anywhere before its end is malformed", () => {
  const tensor: Tensor = { dtype: "F32", shape: [4], bytes: new Uint8Array(16) };
  const whole = joinFrame(encodeFrame(ping, new Map([["x", tensor]])));
  for (let end = 0; end < whole.byteLength; end++) {
    expect(outcome(whole.subarray(0, end))).toBe("FRAME_MALFORMED");
  }
});

test("any bytes give a frame or FRAME_MALFORMED, never anything else", () => {
  const whole = joinFrame(encodeFrame(ping));
  const changed = fc
    .array(fc.tuple(fc.nat(whole.byteLength - 1), fc.nat(255)), { minLength: 1, maxLength: 5 })
    .map((changes) => {
      const bytes = whole.slice();
      for (const [at, value] of changes) bytes[at] = value;
      return bytes;
    });
  const property = fc.property(fc.oneof(fc.uint8Array({ maxLength: 300 }), changed), (bytes) => {
    expect(["frame", "FRAME_MALFORMED"]).toContain(outcome(bytes));
  });
  fc.assert(property, { numRuns: 1000 });
});

test("headers without a message, with too much of one, or with too many tensors are refused", () => {
  const one: Tensor = { dtype: "U8", shape: [0], bytes: new Uint8Array(0) };
  const many = new Map(
    Array.from({ length: FRAME_TENSORS_MAX + 1 }, (_, i) => [`t${i}`, one] as const),
  );
  expect(outcome(serializeSafetensors(new Map([["x", one]])))).toBe("FRAME_MALFORMED");
  expect(outcome(serializeSafetensors(new Map(), { luna: "{" }))).toBe("FRAME_MALFORMED");
  expect(outcome(serializeSafetensors(new Map(), { luna: `"${"x".repeat(2 ** 20)}"` }))).toBe(
    "FRAME_MALFORMED",
  );
  expect(outcome(joinFrame(encodeFrame(ping, many)))).toBe("LIMIT_EXCEEDED");
  const giant = joinFrame(encodeFrame(ping)).slice();
  new DataView(giant.buffer).setBigUint64(0, 2n ** 63n, true);
  expect(outcome(giant)).toBe("FRAME_MALFORMED");
});
