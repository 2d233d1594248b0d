import fc from "fast-check";
import { expect, test } from "vitest";
import {
  code,
  createQueue,
  flush,
  ids,
  job,
  ONE,
  rowsOf,
  type TestJob,
} from "../../test/support/test-queue.ts";
import { BatchCaps } from "./batch-caps.ts";
import { BatchQueue } from "./batch-queue.ts";

test("what waits while a batch runs becomes one batch", async () => {
  const { queue, runs } = createQueue();
  const first = queue.submit(job(0));
  await flush();
  const later = [1, 2, 3].map((id) => queue.submit(job(id)));
  expect(queue.state).toEqual({ depth: 3, running: 1, depthMax: 1024 });
  runs[0]?.finish();
  await flush();
  expect(ids(runs[1])?.sort()).toEqual([1, 2, 3]);
  runs[1]?.finish();
  expect(await first).toEqual({ result: ["0.0"], queueMs: 0, batch: { rows: 1, clients: 1 } });
  const results = await Promise.all(later);
  expect(results.map(({ result }) => result)).toEqual([["1.0"], ["2.0"], ["3.0"]]);
  expect(results[0]?.batch).toEqual({ rows: 3, clients: 3 });
});

test("a full queue refuses and says when to come again; a cancelled job leaves it; close fails the rest", async () => {
  const { queue, runs } = createQueue({ depthMax: 2 });
  const running = queue.submit(job(0));
  await flush();
  const abort = new AbortController();
  const cancelled = code(queue.submit(job(1), abort.signal));
  const waiting = code(queue.submit(job(2)));
  await expect(queue.submit(job(3))).rejects.toMatchObject({
    code: "QUEUE_FULL",
    details: { retryAfterMs: 20 },
  });
  abort.abort();
  expect(await cancelled).toBe("CANCELLED");
  queue.close();
  expect(await waiting).toBe("SHUTTING_DOWN");
  expect(await code(queue.submit(job(4)))).toBe("SHUTTING_DOWN");
  runs[0]?.finish();
  expect((await running).result).toEqual(["0.0"]);
});

test("a job cancelled while it runs is dropped and its companions are not hurt", async () => {
  const { queue, runs } = createQueue();
  const abort = new AbortController();
  const dropped = code(queue.submit(job(1, { rows: 20 }), abort.signal));
  const kept = queue.submit(job(2));
  await flush();
  abort.abort();
  expect(await dropped).toBe("CANCELLED");
  runs[0]?.finish();
  await flush();
  // The rows of the dropped job that had not run do not run.
  runs[1]?.finish();
  expect((await kept).result).toEqual(["2.0"]);
  await flush();
  expect(runs).toHaveLength(2);
});

test("a job past its deadline fails and does not run", async () => {
  const { queue, runs, timers } = createQueue();
  const running = queue.submit(job(0));
  await flush();
  const late = code(queue.submit(job(1), undefined, 500));
  expect(timers.map(({ ms }) => ms)).toEqual([500]);
  timers[0]?.call();
  expect(await late).toBe("DEADLINE_EXCEEDED");
  runs[0]?.finish();
  await running;
  await flush();
  expect(runs).toHaveLength(1);
  expect(timers).toEqual([]);
});

test("one bad job in a batch fails alone", async () => {
  const { queue, runs } = createQueue();
  const answers = [job(1), job(2, { isBad: true }), job(3)].map((each) => code(queue.submit(each)));
  for (let run = 0; run < 4; run++) {
    await flush();
    runs[run]?.finish();
  }
  expect(await Promise.all(answers)).toEqual(["done", "LORA_MALFORMED", "done"]);
  expect(runs.map(({ parts }) => parts.length)).toEqual([3, 1, 1, 1]);
});

test("a large client does not stall a small one by more than one run", async () => {
  const { queue, runs } = createQueue({ caps: new BatchCaps(1) });
  const large = Array.from({ length: 3 }, (_, id) =>
    queue.submit(job(id, { client: "large", batchKey: "128", rows: 16, rowCost: 16384 })),
  );
  await flush();
  for (let step = 0; step < 5; step++) {
    const begun = runs.length;
    const small = queue.submit(job(100, { client: "small", batchKey: "32", rowCost: 1024 }));
    runs.at(-1)?.finish();
    await flush();
    expect(ids(runs[begun])).toEqual([100]);
    runs[begun]?.finish();
    await small;
    await flush();
  }
  const last = runs.length;
  for (let run = last - 1; run < runs.length; run++) {
    runs[run]?.finish();
    await flush();
  }
  expect((await Promise.all(large)).map(({ result }) => result.length)).toEqual([16, 16, 16]);
});

test("16 rows at 128x128 and one at 32x32: the small client waits for the run under way alone", async () => {
  let nowMs = 0;
  const { queue, runs } = createQueue({ now: () => nowMs, caps: new BatchCaps() });
  const finish = async () => {
    const run = runs.at(-1);
    for (const { job: own, range } of run?.parts ?? []) nowMs += range.rows * own.rowCost;
    run?.finish();
    await flush();
  };
  const large = { client: "large", batchKey: "128", rows: 16, rowsMax: 4, rowCost: 16384 };
  const small = { client: "small", batchKey: "32", rowsMax: 16, rowCost: 1024 };
  let next = queue.submit(job(0, large));
  await flush();
  for (let step = 0; step < 40; step++) {
    const sinceMs = nowMs;
    let isDone = false;
    void queue.submit(job(100, small)).then(() => {
      isDone = true;
    });
    for (let run = 0; run < 2; run++) await finish();
    expect(isDone).toBe(true);
    // A quarter of the large client's step, and its own.
    expect(nowMs - sinceMs).toBeLessThanOrEqual(4 * 16384 + 1024);
    if (queue.state.depth === 0 && queue.state.running === 0) next = queue.submit(job(0, large));
    await flush();
  }
  while (queue.state.running > 0) await finish();
  expect((await next).result).toHaveLength(16);
});

test("sizes take turns by their work, not by their number", async () => {
  const { queue, runs } = createQueue({ caps: new BatchCaps(1) });
  const sizes = [
    { client: "a", batchKey: "16", rowCost: 256 },
    { client: "b", batchKey: "32", rowCost: 1024 },
  ];
  for (const size of sizes) for (let n = 0; n < 100; n++) void queue.submit(job(n, size));
  await flush();
  const keys: string[] = [];
  for (let run = 0; run < 50; run++) {
    keys.push(runs[run]?.parts[0]?.job.batchKey ?? "");
    runs[run]?.finish();
    await flush();
  }
  expect(keys.filter((key) => key === "16")).toHaveLength(40);
  // Never more than the four that one of the others outweighs.
  expect(keys.join(" ")).not.toContain("16 16 16 16 16 16");
});

test("an idle engine does not wait where rows gain nothing", async () => {
  let nowMs = 0;
  const caps = new BatchCaps();
  for (let n = 0; n < 500; n++) {
    const rows = Math.min(4, caps.rowsFor(ONE));
    caps.record(ONE, rows, 10 * rows);
  }
  const { queue, runs, timers } = createQueue({ now: () => nowMs, caps });
  for (let step = 0; step < 30; step++) {
    for (const client of ["a", "b"]) {
      void queue.submit(job(0, { client }));
      await flush();
      nowMs += 0.2;
    }
    nowMs += 10;
    runs.at(-1)?.finish();
    await flush();
    runs.at(-1)?.finish();
    await flush();
    expect(timers).toEqual([]);
  }
});

test("each device has caps of its own", async () => {
  const caps = new BatchCaps();
  const used: number[] = [];
  const queue = new BatchQueue<TestJob, string[]>({
    execute: async (parts, lane) => {
      used.push(lane);
      return parts.map(rowsOf);
    },
    join: (results) => results.flat(),
    now: () => 0,
    lanes: 2,
    caps,
  });
  await Promise.all([queue.submit(job(1, { rows: 2 })), queue.submit(job(2, { batchKey: "b" }))]);
  expect(used.toSorted()).toEqual([0, 1]);
  expect(caps.status().map(({ key }) => key)).toEqual(["a device 0", "b device 1"]);
});

test("weights and priorities share the engine as they say, and nobody starves", async () => {
  const { queue, runs } = createQueue({ caps: new BatchCaps(1) });
  const clients = [
    { client: "heavy", weight: 2, priority: "normal" },
    { client: "plain", priority: "normal" },
    { client: "bulk", priority: "bulk" },
  ] as const;
  for (const standing of clients) {
    for (let n = 0; n < 140; n++) void queue.submit(job(n, standing));
  }
  await flush();
  for (let run = 0; run < 130; run++) {
    runs[run]?.finish();
    await flush();
  }
  const shares = clients.map(
    ({ client }) =>
      runs.slice(0, 130).filter(({ parts }) => parts[0]?.job.client === client).length,
  );
  expect(shares).toEqual([80, 40, 10]);
});

test("several lanes run at once, each its own batch", async () => {
  const { queue, runs } = createQueue({ lanes: 2, caps: new BatchCaps(2) });
  const answer = queue.submit(job(1, { rows: 6 }));
  await flush();
  expect(runs.map(({ parts }) => parts[0]?.range)).toEqual([
    { begin: 0, rows: 2 },
    { begin: 2, rows: 2 },
  ]);
  runs[1]?.finish();
  await flush();
  runs[2]?.finish();
  runs[0]?.finish();
  expect((await answer).result).toEqual(["1.0", "1.1", "1.2", "1.3", "1.4", "1.5"]);
});

test("clients in lockstep end up in one batch, not in two that take turns", async () => {
  let nowMs = 0;
  const caps = new BatchCaps();
  // Ten ms however many rows: known before.
  for (let n = 0; n < 500; n++) caps.record(ONE, Math.min(4, caps.rowsFor(ONE)), 10);
  const { queue, runs, timers } = createQueue({ now: () => nowMs, caps });
  const waiting = new Set<string>();
  const step = (client: string) => {
    waiting.add(client);
    void queue.submit(job(0, { client })).then(() => waiting.delete(client));
  };
  const clients = ["a", "b", "c", "d"];
  step("a");
  await flush();
  for (const client of clients.slice(1)) step(client);
  const sizes: number[] = [];
  for (let round = 0; round < 12; round++) {
    nowMs += 10;
    const run = runs.at(-1);
    sizes.push(run?.parts.length ?? 0);
    run?.finish();
    await flush();
    nowMs += 0.5;
    for (const client of clients) if (!waiting.has(client)) step(client);
    await flush();
    if (runs.at(-1) === run) {
      nowMs += 20;
      timers[0]?.call();
      await flush();
    }
  }
  expect(sizes.slice(0, 2)).toEqual([1, 3]);
  expect(sizes.slice(-6)).toEqual([4, 4, 4, 4, 4, 4]);
});

const anyAction = fc.record({
  key: fc.constantFrom("a", "b"),
  rows: fc.integer({ min: 1, max: 12 }),
  isSplittable: fc.boolean(),
  isBad: fc.boolean(),
  isCancelled: fc.boolean(),
  finishFirst: fc.boolean(),
  priority: fc.constantFrom("interactive", "normal", "bulk"),
});

test("whatever happens, each job settles once, each row runs once, one key a batch", async () => {
  const scenario = fc.array(anyAction, { maxLength: 30 });
  const property = fc.asyncProperty(
    scenario,
    fc.integer({ min: 1, max: 8 }),
    fc.integer({ min: 1, max: 3 }),
    async (actions, cap, lanes) => {
      const { queue, runs } = createQueue({ depthMax: 10, lanes, caps: new BatchCaps(cap) });
      let finished = 0;
      const answers: Promise<string>[] = [];
      for (const [id, { key, isCancelled, finishFirst, ...extra }] of actions.entries()) {
        const abort = new AbortController();
        const answer = queue.submit(job(id, { batchKey: key, ...extra }), abort.signal);
        const whole = Array.from({ length: extra.rows }, (_, row) => `${id}.${row}`);
        answers.push(code(answer.then(({ result }) => expect(result).toEqual(whole))));
        if (isCancelled) abort.abort();
        if (finishFirst) {
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
      for (const { parts } of runs) {
        expect(new Set(parts.map((part) => part.job.batchKey)).size).toBe(1);
      }
      for (const [id, outcome] of outcomes.entries()) {
        const expected = actions[id]?.isBad ? ["LORA_MALFORMED"] : ["done"];
        expect([...expected, "CANCELLED", "QUEUE_FULL"]).toContain(outcome);
        const ran = runs.flatMap(({ parts }) => parts.filter((part) => part.job.id === id));
        const hasBad = runs.some(({ parts }) => parts.some((part) => part.job.isBad));
        if (outcome === "done" && !hasBad) {
          const rows = ran.reduce((sum, { range }) => sum + range.rows, 0);
          expect(rows).toBe(actions[id]?.rows);
        }
      }
      expect(queue.state).toMatchObject({ depth: 0, running: 0 });
    },
  );
  await fc.assert(property, { numRuns: 80 });
});
