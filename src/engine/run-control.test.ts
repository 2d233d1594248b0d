import { expect, test } from "vitest";
import { CONTROL_NET, UNION_NET } from "../../test/support/tiny-control.ts";
import type { ControlConfig } from "../checkpoint/index.ts";
import { type FloatTensor, floatTensor, fromFloat } from "../tensor/index.ts";
import type { ControlUse, RunItem } from "./port.ts";
import { ControlRunner } from "./run-control.ts";
import type { Feeds, InferenceSession, Runtime } from "./runtime.ts";

class Tensor {
  readonly type: string;
  readonly data: Float32Array;
  readonly dims: readonly number[];

  constructor(type: string, data: Float32Array, dims: readonly number[]) {
    this.type = type;
    this.data = data;
    this.dims = dims;
  }
}

/** Nets whose only residual is strength (10 hint + x), of the first numbers of each. */
function createRunner(config: ControlConfig, bytesMax = 1 << 20) {
  const runs: { component: string; feeds: Feeds }[] = [];
  const session = (component: string) =>
    ({
      async run(feeds: Record<string, Tensor>) {
        runs.push({ component, feeds: feeds as unknown as Feeds });
        if (component === "control-hint") return { features: feeds["hint"] };
        const strengths = feeds["strength"]?.data ?? new Float32Array();
        const features = feeds["features"]?.data ?? new Float32Array();
        const size = features.length / (feeds["features"]?.dims[0] ?? 1);
        const values = strengths.map((strength, row) => {
          const hint = features[(row * size) % features.length] ?? 0;
          return strength * (10 * hint + (feeds["x"]?.data[row * 4] ?? 0));
        });
        return { "control.middle.0": new Tensor("float32", values, [values.length, 1, 1, 1]) };
      },
    }) as unknown as InferenceSession;
  const runner = new ControlRunner({
    runtime: { Tensor } as unknown as Runtime,
    compute: "float32",
    open: async (path, component) => ({ key: path, config, session: session(component) }),
    bytesMax,
  });
  return { runner, runs };
}

const hint = (value: number, rows = 1): FloatTensor =>
  floatTensor(
    [rows, 1, 1, 1],
    Float32Array.from({ length: rows }, (_, row) => value + row),
  );

function itemOf(uses: readonly Partial<ControlUse>[], hints: readonly FloatTensor[]): RunItem {
  return {
    loras: [],
    tensors: new Map(hints.map((each, index) => [`hint.${index}`, fromFloat(each)])),
    controls: uses.map((use, index) => ({
      ...{ path: "/c", slot: `hint.${index}`, strength: 1, hintRows: [0, 0], ...use },
    })),
  };
}

function batchOf(rows: readonly number[], more: readonly (readonly [string, FloatTensor])[] = []) {
  const total = rows.reduce((sum, count) => sum + count, 0);
  const x = Float32Array.from({ length: total * 4 }, (_, i) => Math.floor(i / 4));
  const feeds = new Map([
    ["x", floatTensor([total, 4, 1, 1], x)],
    ["context", floatTensor([total, 1, 8])],
    ...more,
  ]);
  return { feeds, rows, timesteps: new Float32Array(total) };
}

const valuesOf = (residuals: ReadonlyMap<string, unknown>) => [
  ...(residuals.get("control.middle.0") as Tensor).data,
];

test("a hint is computed once, and a strength is a number of the run", async () => {
  const { runner, runs } = createRunner(CONTROL_NET);
  for (const strength of [1, 0.5]) {
    const { residuals } = await runner.run([itemOf([{ strength }], [hint(2)])], batchOf([2]));
    expect(valuesOf(residuals)).toEqual([20 * strength, 21 * strength]);
  }
  const count = (component: string) => runs.filter((run) => run.component === component).length;
  expect([count("control-hint"), count("control-net")]).toEqual([1, 2]);
  await runner.run([itemOf([{}], [hint(3)])], batchOf([2]));
  expect(count("control-hint")).toBe(2);
  runner.forget("/c");
  await runner.run([itemOf([{}], [hint(3)])], batchOf([2]));
  expect(count("control-hint")).toBe(3);
});

test("rows of all items share a net's run; the others get zeros; what was sent is added", async () => {
  const { runner, runs } = createRunner(CONTROL_NET);
  const items = [
    itemOf([{ hintRows: [-1, 1] }], [hint(2, 2)]),
    { loras: [], tensors: new Map() },
    itemOf(
      [
        { strength: 2, hintRows: [0] },
        { path: "/d", hintRows: [0] },
      ],
      [hint(5), hint(7)],
    ),
  ];
  const sent = floatTensor([1, 1, 1, 1], Float32Array.of(0.25));
  const batch = batchOf([2, 1, 1], [["control.middle.0", sent]]);
  const { residuals } = await runner.run(items, batch);
  // Row 1: 10 * 3 + 1; row 3: 2 * (10 * 5 + 3) and 10 * 7 + 3.
  expect(valuesOf(residuals)).toEqual([0.25, 31.25, 0.25, 179.25]);
  const nets = runs.filter(({ component }) => component === "control-net");
  expect(nets.map(({ feeds }) => (feeds["x"] as unknown as Tensor).dims[0])).toEqual([2, 1]);
});

test("a Union net is told the kind of each row's hint", async () => {
  const { runner, runs } = createRunner(UNION_NET);
  await runner.run([itemOf([{ type: 2 }], [hint(1)]), itemOf([{}], [hint(1)])], batchOf([1, 1]));
  const told = runs.flatMap(({ feeds }) => {
    const tensor = feeds["control_type"] as unknown as Tensor | undefined;
    return tensor ? [[...tensor.data]] : [];
  });
  expect(told).toEqual([
    [0, 0, 1, 0],
    [0, 0, 0, 0],
  ]);
  const last = runs.at(-1) ?? expect.fail("no run");
  const { data, dims } = last.feeds["control_type_embedding"] as unknown as Tensor;
  expect(dims).toEqual([2, 1024]);
  // cos and sin of 0 stand for "not this one".
  expect([data[0], data[128], data[512]]).toEqual([1, 0, Math.fround(Math.cos(1))]);
});

test("nothing is asked of nets that act on no row", async () => {
  const { runner, runs } = createRunner(CONTROL_NET);
  const { residuals, ms } = await runner.run([itemOf([{ hintRows: [-1, -1] }], [])], batchOf([2]));
  expect([residuals.size, ms, runs.length]).toEqual([0, 0, 0]);
});

test("a net takes the latent without an inpainting net's channels, and y where it has a label", async () => {
  const encoder = { ...CONTROL_NET.encoder, admChannels: 3 };
  const { runner, runs } = createRunner({ ...CONTROL_NET, encoder });
  const x = floatTensor(
    [2, 9, 1, 1],
    Float32Array.from({ length: 18 }, (_, i) => i),
  );
  const y = floatTensor([2, 3], Float32Array.of(1, 2, 3, 4, 5, 6));
  const batch = batchOf(
    [2],
    [
      ["x", x],
      ["y", y],
    ],
  );
  await runner.run([itemOf([{ hintRows: [-1, 0] }], [hint(1)])], batch);
  const { feeds } = runs.at(-1) ?? expect.fail("no run");
  const seen = ["x", "y"].map((name) => [...(feeds[name] as unknown as Tensor).data]);
  expect(seen).toEqual([
    [9, 10, 11, 12],
    [4, 5, 6],
  ]);
  const without = batchOf([2]);
  await expect(runner.run([itemOf([{}], [hint(1)])], without)).rejects.toMatchObject({
    code: "TENSOR_MALFORMED",
  });
});
