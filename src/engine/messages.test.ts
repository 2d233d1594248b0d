import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { fromFloat } from "../tensor/index.ts";
import {
  decodeError,
  decodeItems,
  decodeMessage,
  decodeOutputs,
  encodeError,
  encodeItems,
  encodeMessage,
  encodeOutputs,
  type ParentMessage,
  type Tensors,
} from "./messages.ts";
import type { RunItem } from "./port.ts";

const tensor = (...values: number[]) =>
  fromFloat({ shape: [values.length], data: Float32Array.from(values) });
const factors = new Map([["layer.down", tensor(7)]]);
const items: RunItem[] = [
  {
    tensors: new Map([["control.input.0", tensor(1, 2)]]),
    layer: -2,
    isLayerNormed: false,
    loras: [
      { source: { type: "factors", digest: "sha256:ab/unet", tensors: factors }, strength: 0.5 },
      { source: { type: "file", path: "/a", name: "a", key: "1-2" }, strength: -1 },
    ],
  },
  {
    tensors: new Map([["x", tensor(3)]]),
    tile: { size: 64, overlap: 8 },
    loras: [
      { source: { type: "factors", digest: "sha256:ab/unet", tensors: factors }, strength: 2 },
      { source: { type: "factors", digest: "empty", tensors: new Map() }, strength: 1 },
    ],
  },
];

function overThePipe(isKnown: (digest: string) => boolean, store: Map<string, Tensors>) {
  const { tensors, ...encoded } = encodeItems(items, isKnown);
  const request = { type: "run", path: "/m", component: "unet", ...encoded } as const;
  const parts = encodeMessage({ type: "request", id: 1, request }, tensors);
  const frame = new Uint8Array(Buffer.concat(parts));
  const decoded = decodeMessage<ParentMessage>(frame);
  if (decoded.message.type !== "request" || decoded.message.request.type !== "run")
    throw new Error();
  return decodeItems(decoded.message.request, decoded.tensors, {
    keep: (digest, sent) => store.set(digest, sent),
    recall: (digest) => {
      const known = store.get(digest);
      if (known) return known;
      throw new LunaError("TENSOR_UNKNOWN", digest);
    },
  });
}

const plain = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (_, inner) => {
      if (inner instanceof Map) return [...inner];
      return inner instanceof Uint8Array ? [...inner] : inner;
    }),
  );

test("items cross the pipe whole; factors are kept and then named only", () => {
  const store = new Map<string, Tensors>();
  expect(plain(overThePipe(() => false, store))).toEqual(plain(items));
  expect([...store.keys()]).toEqual(["sha256:ab/unet", "empty"]);
  expect(encodeItems(items, () => true).tensors.has("f0/layer.down")).toBe(false);
  expect(plain(overThePipe(() => true, store))).toEqual(plain(items));
  expect(() => overThePipe(() => true, new Map())).toThrow(LunaError);
});

test("outputs and errors cross the pipe whole", () => {
  const outputs = [
    { tensors: new Map([["out", tensor(1)]]), warnings: ["w"] },
    { tensors: new Map(), warnings: [] },
  ];
  const warnings = outputs.map((output) => ({ warnings: output.warnings }));
  expect(plain(decodeOutputs(warnings, encodeOutputs(outputs)))).toEqual(plain(outputs));
  const error = new LunaError("TENSOR_UNKNOWN", "gone", { details: { digests: ["d"] } });
  expect(decodeError(encodeError(error))).toMatchObject({
    code: "TENSOR_UNKNOWN",
    message: "gone",
    details: { digests: ["d"] },
  });
});
