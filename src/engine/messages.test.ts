import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { fromFloat, type Tensor } from "../tensor/index.ts";
import {
  decodeError,
  decodeItems,
  decodeMessage,
  decodeOutputs,
  encodeError,
  encodeItems,
  encodeMessage,
  encodeOutputs,
  type KeptByDigest,
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
    tensors: new Map([
      ["x", tensor(3)],
      ["context", tensor(5, 6)],
    ]),
    digests: new Map([["context", "sha256:cd"]]),
    tile: { size: 64, overlap: 8 },
    loras: [
      { source: { type: "factors", digest: "sha256:ab/unet", tensors: factors }, strength: 2 },
      { source: { type: "factors", digest: "empty", tensors: new Map() }, strength: 1 },
    ],
  },
];

type Store = Readonly<{ factors: Map<string, Tensors>; shared: Map<string, Tensor> }>;
const emptyStore = (): Store => ({ factors: new Map(), shared: new Map() });

function keptIn<T>(map: Map<string, T>): KeptByDigest<T> {
  return {
    keep: (digest, value) => void map.set(digest, value),
    recall: (digest) => {
      const known = map.get(digest);
      if (known) return known;
      throw new LunaError("TENSOR_UNKNOWN", digest);
    },
  };
}

function overThePipe(isKnown: (digest: string) => boolean, store: Store) {
  const { tensors, ...encoded } = encodeItems(items, isKnown);
  const request = { type: "run", path: "/m", component: "unet", ...encoded } as const;
  const parts = encodeMessage({ type: "request", id: 1, request }, tensors);
  const frame = new Uint8Array(Buffer.concat(parts));
  const decoded = decodeMessage<ParentMessage>(frame);
  if (decoded.message.type !== "request" || decoded.message.request.type !== "run")
    throw new Error();
  return decodeItems(decoded.message.request, decoded.tensors, {
    factors: keptIn(store.factors),
    shared: keptIn(store.shared),
  });
}

const plain = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (_, inner) => {
      if (inner instanceof Map) return [...inner];
      return inner instanceof Uint8Array ? [...inner] : inner;
    }),
  );

test("items cross the pipe whole; what goes by digest is kept and then named only", () => {
  const store = emptyStore();
  expect(plain(overThePipe(() => false, store))).toEqual(plain(items));
  expect([...store.factors.keys()]).toEqual(["sha256:ab/unet", "empty"]);
  expect([...store.shared.keys()]).toEqual(["sha256:cd"]);
  expect([...encodeItems(items, () => true).tensors.keys()]).toEqual(["0/control.input.0", "1/x"]);
  expect(plain(overThePipe(() => true, store))).toEqual(plain(items));
  expect(() => overThePipe(() => true, emptyStore())).toThrow(LunaError);
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
