import { expect, test } from "vitest";
import { parseClientWeights, parseDevices } from "../src/engine-options.ts";

test("devices are named with threads or an index, several with commas", () => {
  expect(parseDevices("auto")).toEqual([{ device: "auto" }]);
  expect(parseDevices("cpu:1, cpu:2")).toEqual([
    { device: "cpu", threads: 1 },
    { device: "cpu", threads: 2 },
  ]);
  expect(parseDevices("cuda:0,cuda:1").map(({ deviceIndex }) => deviceIndex)).toEqual([0, 1]);
  for (const wrong of ["", "tpu", "cpu:", "cpu:x", "cpu,,cpu"]) {
    expect(() => parseDevices(wrong)).toThrow(/choose auto, cpu/);
  }
});

test("clients have weights by name", () => {
  expect([...parseClientWeights(["a=2", "b=c=0.5"])]).toEqual([
    ["a", 2],
    ["b=c", 0.5],
  ]);
  for (const wrong of ["a", "=2", "a=0", "a=x", "a=1001"]) {
    expect(() => parseClientWeights([wrong])).toThrow(/NAME=1/);
  }
});
