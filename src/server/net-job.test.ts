import { expect, test } from "vitest";
import { fromFloat, type Tensor, toFloat } from "../tensor/index.ts";
import { joinResults, type NetJob, partItem } from "./net-job.ts";

const counted = (shape: number[]): Tensor => {
  const count = shape.reduce((a, b) => a * b, 1);
  return fromFloat({ shape, data: Float32Array.from({ length: count }, (_, at) => at) });
};
const job: NetJob = {
  ...{ batchKey: "k", client: "c", model: "m", path: "/m", component: "unet" },
  ...{ rows: 4, rowsMax: 8, rowCost: 4 },
  item: {
    loras: [],
    tensors: new Map([
      ["x", counted([4, 2, 1, 1])],
      ["timesteps", counted([4])],
      ["control.middle.0", counted([1, 2, 1, 1])],
    ]),
  },
};
const values = (tensor: Tensor | undefined) => [...(tensor ? toFloat(tensor).data : [])];

test("rows of a job are views of its tensors; one row of control stands for all", () => {
  const { tensors } = partItem({ job, range: { begin: 1, rows: 2 } });
  expect(values(tensors.get("x"))).toEqual([2, 3, 4, 5]);
  expect(tensors.get("x")?.shape).toEqual([2, 2, 1, 1]);
  expect(values(tensors.get("timesteps"))).toEqual([1, 2]);
  expect(tensors.get("control.middle.0")?.shape).toEqual([1, 2, 1, 1]);
  expect(partItem({ job, range: { begin: 0, rows: 4 } })).toBe(job.item);
  const named = { ...job, item: { ...job.item, digests: new Map([["x", "sha256:ab"]]) } };
  const names = [0, 1].map((begin) => partItem({ job: named, range: { begin, rows: 1 } }).digests);
  expect(names.map((each) => each?.get("x"))).toEqual([
    "sha256:ab rows 0+1 of 4",
    "sha256:ab rows 1+1 of 4",
  ]);
});

test("a control keeps its hint whole and has the rows of its part", () => {
  const control = { path: "/c", slot: "hint.0", strength: 1, hintRows: [0, 1, -1, 1] };
  const hint = counted([4, 1, 1, 1]);
  const item = {
    ...job.item,
    tensors: new Map([...job.item.tensors, ["hint.0", hint]]),
    digests: new Map([["hint.0", "sha256:cd"]]),
    controls: [control],
  };
  const part = partItem({ job: { ...job, item }, range: { begin: 1, rows: 2 } });
  expect(part.controls).toEqual([{ ...control, hintRows: [1, -1] }]);
  expect([part.tensors.get("hint.0"), part.digests?.get("hint.0")]).toEqual([hint, "sha256:cd"]);
});

test("results of all rows are the result of the job", () => {
  const parts = [
    { begin: 0, rows: 3 },
    { begin: 3, rows: 1 },
  ].map((range, index) => ({
    engineMs: 5,
    output: { tensors: partItem({ job, range }).tensors, warnings: ["once", `part ${index}`] },
  }));
  const { output, engineMs } = joinResults(parts);
  expect(output.tensors.get("x")).toEqual(job.item.tensors.get("x"));
  expect(output.warnings).toEqual(["once", "part 0", "part 1"]);
  expect(engineMs).toBe(10);
});
