/** A batch queue before an engine that runs a batch only when told to. */
import { LunaError } from "../../src/kernel/index.ts";
import { BatchCaps } from "../../src/scheduler/batch-caps.ts";
import { BatchQueue, type BatchQueueOptions, type Part } from "../../src/scheduler/batch-queue.ts";
import type { Job } from "../../src/scheduler/job.ts";

export type TestJob = Job & { id: number; isBad?: boolean };
export const job = (id: number, extra: Partial<TestJob> = {}): TestJob => ({
  id,
  ...{ batchKey: "a", rows: 1, rowsMax: 8, rowCost: 1, isSplittable: true },
  client: `client-${id % 3}`,
  ...extra,
});

/** Requests of one row each. */
export const ONE = { key: "a", own: 1 };

export type Run = Readonly<{
  parts: readonly Part<TestJob>[];
  finish: (error?: LunaError) => void;
}>;
/** Each row of a job gives "<id>.<row>". */
export const rowsOf = ({ job: { id }, range }: Part<TestJob>): string[] =>
  Array.from({ length: range.rows }, (_, at) => `${id}.${range.begin + at}`);

/** An engine that runs a batch only when told to, and timers that ring only when told to. */
export function createQueue(options: Partial<BatchQueueOptions<TestJob, string[]>> = {}) {
  const runs: Run[] = [];
  const timers: { call: () => void; ms: number }[] = [];
  const queue = new BatchQueue<TestJob, string[]>({
    execute: (parts) =>
      new Promise((resolve, reject) => {
        const finish = (error?: LunaError) => {
          const bad = parts.find((part) => part.job.isBad);
          if (error) reject(error);
          else if (bad) reject(new LunaError("LORA_MALFORMED", `job ${bad.job.id} is bad`));
          else resolve(parts.map(rowsOf));
        };
        runs.push({ parts, finish });
      }),
    join: (results) => results.flat(),
    now: () => 0,
    defer: queueMicrotask,
    later: (call, ms) => {
      const timer = { call, ms };
      timers.push(timer);
      return () => void timers.splice(timers.indexOf(timer), 1);
    },
    caps: new BatchCaps(8),
    ...options,
  });
  return { queue, runs, timers };
}

export const flush = () => new Promise<void>((resolve) => setImmediate(resolve));
export const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error) => (error instanceof LunaError ? error.code : String(error)),
  );
export const ids = (run: Run | undefined) => run?.parts.map((part) => part.job.id);
