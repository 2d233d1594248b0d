import { expect, test } from "vitest";
import { digestTensor, fromFloat, type Tensor, toFloat } from "../tensor/index.ts";
import { TensorStore } from "./tensor-store.ts";

const tensor = (value: number, count = 4): Tensor =>
  fromFloat({ shape: [count], data: new Float32Array(count).fill(value) });
const put = (store: TensorStore, value: Tensor): string => {
  const digest = digestTensor(value);
  store.put(digest, value);
  return digest;
};

test("a tensor is kept under its digest only, as a copy", () => {
  const store = new TensorStore();
  const given = tensor(1);
  const digest = put(store, given);
  given.bytes.fill(0);
  expect(store.get(digest)).toEqual(tensor(1));
  expect(() => store.put(digest, tensor(2))).toThrow(/its digest is sha256:/);
  expect(() => store.put(digest.replace("F", "G"), tensor(1, 5))).toThrow();
});

test("halves are kept in float32, so that they are converted once", () => {
  const store = new TensorStore();
  const half = fromFloat({ shape: [2], data: new Float32Array([1.5, -2]) }, "F16");
  const kept = store.get(put(store, half));
  expect(kept?.dtype).toBe("F32");
  expect(kept && [...toFloat(kept).data]).toEqual([1.5, -2]);
});

test("what was used longest ago is forgotten, what is too large is refused", () => {
  const store = new TensorStore({ tensorBytesMax: 40 });
  const first = put(store, tensor(1));
  const second = put(store, tensor(2));
  store.get(first);
  const third = put(store, tensor(3));
  expect([first, second, third].map((digest) => store.get(digest) !== undefined)).toEqual([
    ...[true, false, true],
  ]);
  expect(store.state).toMatchObject({ entries: 2, bytes: 32 });
  expect(() => put(store, tensor(4, 100))).toThrow(/at most 40 bytes.*raise tensorStoreMiB/);
});

const factors = (ranks: [number, number], names = ["down", "up"]): Map<string, Tensor> =>
  new Map(
    names.map((name, index) => [
      `unet.input_blocks.1.1.proj_in.${name}`,
      fromFloat({ shape: [ranks[index] ?? 1, 3], data: new Float32Array(3 * (ranks[index] ?? 1)) }),
    ]),
  );

test("LoRA factors are one set with one digest, whatever their order", () => {
  const store = new TensorStore();
  const digest = store.putLora(factors([2, 2]));
  expect(store.putLora(new Map([...factors([2, 2])].reverse()))).toBe(digest);
  expect([...(store.getLora(digest)?.components.get("unet")?.keys() ?? [])]).toEqual([
    ...["input_blocks.1.1.proj_in.up", "input_blocks.1.1.proj_in.down"],
  ]);
  expect(store.putLora(factors([3, 3]))).not.toBe(digest);
  const small = new TensorStore({ tensorBytesMax: 40, loraBytesMax: 60 });
  expect(small.state.bytesMax).toBe(100);
  expect(() => small.putLora(factors([3, 3]))).toThrow(/at most 60 bytes.*raise loraCacheMiB/);
});

test.each<[string, ReadonlyMap<string, Tensor>]>([
  ["there are none", new Map()],
  ["only one of its two", factors([2, 2], ["down"])],
  ["has the ranks", factors([2, 3])],
  ["has rank 0", factors([0, 0])],
  ["is not", new Map([["lora_unet_x.alpha", tensor(1)]])],
  [
    "has the type",
    new Map([["unet.a.down", { dtype: "I64", shape: [1], bytes: new Uint8Array(8) }]]),
  ],
])("factors are refused when %s", (problem, set) => {
  expect(() => new TensorStore().putLora(set)).toThrow(problem);
});
