import fc from "fast-check";
import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { BatchQueue, type QueueJob } from "./batch-queue.ts";

type TestJob = QueueJob & { id: number; isBad?: boolean };
const job = (id: number, extra: Partial<TestJob> = {}): TestJob => ({
  id,
  batchKey: "a",
  rows: 1,
  rowsMax: 8,
  client: `client-${id % 3}`,
  ...extra,
});

/** An engine that runs a batch only when told to. */
function createManualEngine() {
  const runs: { jobs: readonly TestJob[]; finish: () => void }[] = [];
  const execute = (jobs: readonly TestJob[]) =>
    new Promise<number[]>((resolve, reject) => {
      const finish = () => {
        const bad = jobs.find(({ isBad }) => isBad);
        if (bad) reject(new LunaError("LORA_MALFORMED", `job ${bad.id} is bad`));
        else resolve(jobs.map(({ id }) => id * 10));
      };
      runs.push({ jobs, finish });
    });
  return { runs, execute };
}

const flush = () => new Promise<void>((resolve) => setImmediate(resolve));
const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error) => (error instanceof LunaError ? error.code : String(error)),
  );

function createQueue(depthMax?: number) {
  const engine = createManualEngine();
  const queue = new BatchQueue<TestJob, number>({
    execute: engine.execute,
    now: () => 0,
    defer: queueMicrotask,
    ...(depthMax === undefined ? {} : { depthMax }),
  });
  return { queue, ...engine };
}

test("what waits while a batch runs becomes one batch", async () => {
  const { queue, runs } = createQueue();
  const first = queue.submit(job(0));
  await flush();
  const later = [1, 2, 3].map((id) => queue.submit(job(id)));
  expect(queue.state).toEqual({ depth: 3, running: 1, depthMax: 1024 });
  runs[0]?.finish();
  await flush();
  expect(runs[1]?.jobs.map(({ id }) => id)).toEqual([1, 2, 3]);
  runs[1]?.finish();
  expect(await first).toEqual({ result: 0, queueMs: 0, batch: { rows: 1, clients: 1 } });
  expect((await Promise.all(later)).map(({ result }) => result)).toEqual([10, 20, 30]);
  expect((await later[0])?.batch).toEqual({ rows: 3, clients: 3 });
});

test("a full queue refuses, a cancelled job leaves it, close fails the rest", async () => {
  const { queue, runs } = createQueue(2);
  const running = queue.submit(job(0));
  await flush();
  const abort = new AbortController();
  const cancelled = code(queue.submit(job(1), abort.signal));
  const waiting = code(queue.submit(job(2)));
  expect(await code(queue.submit(job(3)))).toBe("QUEUE_FULL");
  abort.abort();
  expect(await cancelled).toBe("CANCELLED");
  queue.close();
  expect(await waiting).toBe("SHUTTING_DOWN");
  expect(await code(queue.submit(job(4)))).toBe("SHUTTING_DOWN");
  runs[0]?.finish();
  expect((await running).result).toBe(0);
});

test("a job cancelled while it runs is dropped and its companions are not hurt", async () => {
  const { queue, runs } = createQueue();
  const abort = new AbortController();
  const dropped = code(queue.submit(job(1), abort.signal));
  const kept = queue.submit(job(2));
  await flush();
  abort.abort();
  expect(await dropped).toBe("CANCELLED");
  runs[0]?.finish();
  expect((await kept).result).toBe(20);
});

test("one bad job in a batch fails alone", async () => {
  const { queue, runs } = createQueue();
  const answers = [job(1), job(2, { isBad: true }), job(3)].map((each) => code(queue.submit(each)));
  for (let run = 0; run < 4; run++) {
    await flush();
    runs[run]?.finish();
  }
  expect(await Promise.all(answers)).toEqual(["done", "LORA_MALFORMED", "done"]);
  expect(runs.map(({ jobs }) => jobs.length)).toEqual([3, 1, 1, 1]);
});

const anyAction = fc.record({
  key: fc.constantFrom("a", "b"),
  rows: fc.integer({ min: 1, max: 6 }),
  isCancelled: fc.boolean(),
  finishFirst: fc.boolean(),
});

test("whatever happens, each job settles once, runs at most once, one key a batch", async () => {
  const property = fc.asyncProperty(fc.array(anyAction, { maxLength: 30 }), async (actions) => {
    const { queue, runs } = createQueue(10);
    let finished = 0;
    const answers: Promise<string>[] = [];
    for (const [id, action] of actions.entries()) {
      const abort = new AbortController();
      answers.push(
        code(queue.submit(job(id, { batchKey: action.key, rows: action.rows }), abort.signal)),
      );
      if (action.isCancelled) abort.abort();
      if (action.finishFirst) {
        await flush();
        if (finished < runs.length) runs[finished++]?.finish();
      }
      expect(queue.state.depth).toBeLessThanOrEqual(10);
    }
    for (;;) {
      await flush();
      if (finished === runs.length) break;
      runs[finished++]?.finish();
    }
    const outcomes = await Promise.all(answers);
    const ran = runs.flatMap(({ jobs }) => jobs.map(({ id }) => id));
    expect(new Set(ran).size).toBe(ran.length);
    for (const { jobs } of runs) expect(new Set(jobs.map((each) => each.batchKey)).size).toBe(1);
    for (const [id, outcome] of outcomes.entries()) {
      if (outcome === "done") expect(ran).toContain(id);
      else expect(["CANCELLED", "QUEUE_FULL"]).toContain(outcome);
    }
  });
  await fc.assert(property, { numRuns: 60 });
});
