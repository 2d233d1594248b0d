import type { BatchFacts, BatchQueueOptions, Outcome } from "./batch-queue.ts";
import { type Job, PRIORITIES, type Range } from "./job.ts";
import { without } from "./plan-batch.ts";

type Done<R> = Readonly<{ result: R; range: Range; beginMs: number; batch: BatchFacts }>;

type Settling<R> = Readonly<{
  resolve: (outcome: Outcome<R>) => void;
  reject: (error: unknown) => void;
  /** Called once, before either. */
  release: () => void;
}>;

/** A job in the queue: which of its rows wait, which are done, and whom to tell. Settles once. */
export class QueueEntry<J extends Job, R> {
  readonly job: J;
  readonly arrivedAtMs: number;
  /** Of priorities, 0 for the most urgent. */
  readonly rank: number;
  ranges: readonly Range[];
  isSettled = false;
  readonly #settling: Settling<R>;
  readonly #done: Done<R>[] = [];
  #runMs = 0;

  constructor(job: J, arrivedAtMs: number, settling: Settling<R>) {
    this.job = job;
    this.arrivedAtMs = arrivedAtMs;
    this.rank = PRIORITIES.indexOf(job.priority ?? "normal");
    this.ranges = [{ begin: 0, rows: job.rows }];
    this.#settling = settling;
  }

  take(range: Range): void {
    this.ranges = without(this.ranges, range);
  }

  giveBack(range: Range): void {
    this.ranges = [range, ...this.ranges];
  }

  /** Takes the result of some rows; true when they were the last. */
  finish(done: Done<R>, { join, now }: Pick<BatchQueueOptions<J, R>, "join" | "now">): boolean {
    if (this.isSettled) return false;
    this.#done.push(done);
    this.#runMs += now() - done.beginMs;
    const rows = this.#done.reduce((sum, { range }) => sum + range.rows, 0);
    if (rows < this.job.rows) return false;
    const parts = this.#done.sort((a, b) => a.range.begin - b.range.begin);
    const [only] = parts;
    const result = only && parts.length === 1 ? only.result : join(parts.map((p) => p.result));
    // Several lanes may have computed its rows at once.
    const queueMs = Math.max(0, now() - this.arrivedAtMs - this.#runMs);
    this.isSettled = true;
    this.#settling.release();
    this.#settling.resolve({ result, queueMs, batch: done.batch });
    return true;
  }

  fail(error: unknown): void {
    if (this.isSettled) return;
    this.isSettled = true;
    this.ranges = [];
    this.#settling.release();
    this.#settling.reject(error);
  }
}
