import { expect, test } from "vitest";
import type { UNetConfig } from "../checkpoint/index.ts";
import { fromFloat } from "../tensor/index.ts";
import type { RunItem } from "./port.ts";
import { splitRows, unetFeeds } from "./run-unet.ts";

const config: UNetConfig = {
  ...{ inChannels: 1, outChannels: 1, modelChannels: 4, channelMult: [1], resBlocks: [1] },
  ...{ transformerDepth: [0], transformerDepthMiddle: 0, transformerDepthOutput: [0, 0] },
  ...{ contextDim: 1, admChannels: 1, heads: { count: 1 }, isLinearProjection: false },
};
const floats = (shape: number[], value: number) =>
  fromFloat({ shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value) });
const item = (
  rows: number,
  value: number,
  more: [string, ReturnType<typeof floats>][] = [],
): RunItem => ({
  loras: [],
  tensors: new Map([
    ["x", floats([rows, 1, 1, 2], value)],
    ["timesteps", floats([rows], value)],
    ["context", floats([1, 2, 1], value)],
    ["y", floats([rows, 1], value)],
    ...more,
  ]),
});

test("rows of all items are joined, a lone context stands for its item's rows", () => {
  const controls = new Set(["control.middle.0", "control.input.0"]);
  const control: [string, ReturnType<typeof floats>] = [
    "control.middle.0",
    floats([1, 1, 1, 1], 7),
  ];
  const { feeds, rows } = unetFeeds(config, [item(2, 1), item(1, 2, [control])], controls);
  expect(rows).toEqual([2, 1]);
  expect(feeds.get("x")).toEqual({ shape: [3, 1, 1, 2], data: Float32Array.of(1, 1, 1, 1, 2, 2) });
  expect(feeds.get("context")?.data).toEqual(Float32Array.of(1, 1, 1, 1, 2, 2));
  expect(feeds.get("timestep_embedding")?.shape).toEqual([3, 4]);
  expect(feeds.get("control.middle.0")?.data).toEqual(Float32Array.of(0, 0, 7));
  expect(feeds.has("control.input.0")).toBe(false);
});

test("what is missing or unknown is named", () => {
  const tensors = new Map(item(1, 1).tensors);
  tensors.delete("y");
  expect(() => unetFeeds(config, [{ loras: [], tensors }], new Set())).toThrow(/"y"/);
  const odd = item(1, 1, [["control.midle.0", floats([1, 1, 1, 1], 1)]]);
  expect(() => unetFeeds(config, [odd], new Set())).toThrow(/"control.midle.0"/);
});

test("outputs are taken apart by rows", () => {
  const out = { shape: [3, 1], data: Float32Array.of(1, 2, 3) };
  const parts = splitRows(new Map([["out", out]]), [2, 1]);
  expect(parts.map((part) => part.get("out")?.data)).toEqual([
    Float32Array.of(1, 2),
    Float32Array.of(3),
  ]);
});
