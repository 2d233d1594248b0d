import fc from "fast-check";
import { expect, test } from "vitest";
import { code, createQueue, flush, ids, job } from "../../test/support/test-queue.ts";
import { LunaError } from "../kernel/index.ts";
import { BatchCaps } from "./batch-caps.ts";

test("the rows of a request share one run, whatever was measured and whoever waits", async () => {
  let nowMs = 0;
  // Rows alone are faster: before, a request of two was cut into two runs.
  const msOf = (rows: number) => (rows === 1 ? 5 : 10 * rows);
  const { queue, runs, timers } = createQueue({ now: () => nowMs, caps: new BatchCaps() });
  const clients = [1, 2, 3, 4].map((rows) => ({ rows, client: `of ${rows}` }));
  const waiting = new Set<string>();
  for (let at = 0; at < 800; at++) {
    for (const own of clients) {
      if (waiting.has(own.client)) continue;
      waiting.add(own.client);
      void queue.submit(job(own.rows, own)).then(() => waiting.delete(own.client));
    }
    await flush();
    timers[0]?.call();
    const run = runs[at];
    for (const { job: own, range } of run?.parts ?? []) {
      expect(range).toEqual({ begin: 0, rows: own.rows });
    }
    nowMs += msOf(run?.parts.reduce((sum, { range }) => sum + range.rows, 0) ?? 0);
    run?.finish();
    await flush();
  }
  expect(runs.length).toBeGreaterThanOrEqual(800);
});

test("a request too large for any run is cut at the same rows in any company", async () => {
  const { queue, runs } = createQueue({ caps: new BatchCaps() });
  const others = fc.array(fc.integer({ min: 1, max: 8 }), { maxLength: 6 });
  const property = fc.asyncProperty(others, async (rows) => {
    const begun = runs.length;
    const answers = [...rows, 20].map((own, id) =>
      queue.submit(job(id, { rows: own, client: `${id}` })),
    );
    await flush();
    for (let at = begun; at < runs.length; at++) {
      runs[at]?.finish();
      await flush();
    }
    await Promise.all(answers);
    const parts = runs.slice(begun).flatMap((run) => run.parts);
    const cuts = parts.filter(({ job: own }) => own.rows === 20).map(({ range }) => range);
    expect(cuts.map(({ begin, rows: own }) => [begin, own])).toEqual([
      [0, 8],
      [8, 8],
      [16, 4],
    ]);
  });
  await fc.assert(property, { numRuns: 40 });
});

test("companions that do not fit into memory together are not cut: each may fit alone", async () => {
  const { queue, runs } = createQueue();
  const tooLarge = new LunaError("MEMORY_EXCEEDED", "bad_alloc");
  const answers = [3, 5].map((rows) => queue.submit(job(rows, { rows })));
  await flush();
  expect(ids(runs[0])).toEqual([3, 5]);
  runs[0]?.finish(tooLarge);
  for (let at = 1; at < 3; at++) {
    await flush();
    runs[at]?.finish();
  }
  await Promise.all(answers);
  expect(runs.slice(1).map(({ parts }) => parts.map(({ range }) => range.rows))).toEqual([
    [3],
    [5],
  ]);
});

test("a run that does not fit into memory is halved until it does; one row that does not is an error", async () => {
  const { queue, runs } = createQueue();
  const tooLarge = new LunaError("MEMORY_EXCEEDED", "bad_alloc");
  const answer = queue.submit(job(1, { rows: 8 }));
  const rowsMax = 2;
  const sizes: number[] = [];
  for (let at = 0; at < 6; at++) {
    await flush();
    const rows = runs[at]?.parts[0]?.range.rows ?? 0;
    sizes.push(rows);
    runs[at]?.finish(rows > rowsMax ? tooLarge : undefined);
  }
  expect(sizes).toEqual([8, 4, 2, 2, 2, 2]);
  expect((await answer).result).toEqual(Array.from({ length: 8 }, (_, row) => `1.${row}`));
  const failed = code(queue.submit(job(2)));
  await flush();
  runs[6]?.finish(tooLarge);
  expect(await failed).toBe("MEMORY_EXCEEDED");
});
