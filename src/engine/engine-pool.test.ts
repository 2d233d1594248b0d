import { expect, test } from "vitest";
import { FakeEngine } from "../../test/support/fake-engine.ts";
import { EnginePool } from "./engine-pool.ts";

/** Two engines whose runs end when told to. */
function createPool() {
  const runs: { engine: number; finish: () => void }[] = [];
  const engines = [0, 1].map((index) => {
    const engine = new FakeEngine();
    engine.run = (_path, _component, items) =>
      new Promise((resolve) => {
        const outputs = items.map(() => ({ tensors: new Map(), warnings: [] }));
        runs.push({ engine: index, finish: () => resolve({ outputs, engineMs: 1 }) });
      });
    return engine;
  });
  return { pool: new EnginePool(engines), engines, runs };
}

test("runs go to the device that is named, or has the fewest under way", async () => {
  const { pool, runs } = createPool();
  expect(pool.lanes).toBe(2);
  const answers = [pool.run("/a", "unet", []), pool.run("/a", "unet", [])];
  runs[1]?.finish();
  await answers[1];
  answers.push(pool.run("/a", "unet", []));
  answers.push(pool.run("/a", "unet", [], { lane: 1 }));
  expect(runs.map(({ engine }) => engine)).toEqual([0, 1, 1, 1]);
  for (const { finish } of runs) finish();
  await Promise.all(answers);
});

test("a net is loaded on every device, or on none", async () => {
  const { pool, engines } = createPool();
  expect(await pool.load("/a", "unet")).toEqual({ bytes: 2000, ms: 1 });
  expect((await pool.info()).loaded).toHaveLength(2);
  if (engines[1]) engines[1].load = async () => Promise.reject(new Error("full"));
  await expect(pool.load("/b", "unet")).rejects.toThrow("full");
  expect((await pool.info()).loaded.map(({ path }) => path)).toEqual(["/a", "/a"]);
  await pool.unload("/a");
  expect((await pool.info()).loaded).toEqual([]);
  await pool.close();
});
