/**
 * A bounded queue in front of one device. One batch runs at a time; whatever has gathered when it
 * ends forms the next. The contract: every accepted job settles exactly once, with its own result,
 * its own error, or CANCELLED.
 */
import { LunaError } from "../kernel/index.ts";
import { QUEUE_DEPTH_MAX } from "./limits.ts";
import { type Job, planBatch } from "./plan-batch.ts";

/** A job that also says whose it is, to count the clients of a batch. */
export type QueueJob = Job & Readonly<{ client: string }>;

export type BatchFacts = Readonly<{ rows: number; clients: number }>;
/** Runs jobs of one key together; results in the order of the jobs. */
export type Execute<J, R> = (jobs: readonly J[]) => Promise<readonly R[]>;
export type Outcome<R> = Readonly<{ result: R; queueMs: number; batch: BatchFacts }>;

export type BatchQueueOptions<J, R> = Readonly<{
  execute: Execute<J, R>;
  now: () => number;
  depthMax?: number;
  /** Called once for each run, before it. */
  onBatch?: (facts: BatchFacts) => void;
  /** When an idle queue starts; a turn of the event loop lets what already arrived join. */
  defer?: (start: () => void) => void;
}>;

type Waiting<J, R> = {
  readonly job: J;
  readonly batchKey: string;
  readonly rows: number;
  readonly rowsMax: number;
  readonly arrivedAtMs: number;
  isCancelled: boolean;
  settle(outcome: Outcome<R>): void;
  fail(error: unknown): void;
};

export class BatchQueue<J extends QueueJob, R> {
  readonly #options: BatchQueueOptions<J, R>;
  readonly #depthMax: number;
  #waiting: Waiting<J, R>[] = [];
  #running = 0;
  #isActive = false;
  #closedWith: LunaError | undefined;

  constructor(options: BatchQueueOptions<J, R>) {
    this.#options = options;
    this.#depthMax = options.depthMax ?? QUEUE_DEPTH_MAX;
  }

  /** Jobs waiting, jobs in the running batch, and how many may wait. */
  get state(): Readonly<{ depth: number; running: number; depthMax: number }> {
    return { depth: this.#waiting.length, running: this.#running, depthMax: this.#depthMax };
  }

  /**
   * Waits for the job's turn and runs it. Rejects with QUEUE_FULL when too many wait, CANCELLED
   * when `signal` fires first (a run under way goes on, its result is dropped), SHUTTING_DOWN
   * after `close`, or with what `execute` threw.
   */
  submit(job: J, signal?: AbortSignal): Promise<Outcome<R>> {
    if (this.#closedWith) return Promise.reject(this.#closedWith);
    if (signal?.aborted) return Promise.reject(cancelled());
    if (this.#waiting.length >= this.#depthMax) {
      const message = `${this.#waiting.length} requests wait for the engine, limit ${this.#depthMax}.`;
      return Promise.reject(new LunaError("QUEUE_FULL", `${message} Try again later.`));
    }
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        entry.isCancelled = true;
        this.#waiting = this.#waiting.filter((other) => other !== entry);
        reject(cancelled());
      };
      const entry: Waiting<J, R> = {
        job,
        batchKey: job.batchKey,
        rows: job.rows,
        rowsMax: job.rowsMax,
        arrivedAtMs: this.#options.now(),
        isCancelled: false,
        settle(outcome) {
          signal?.removeEventListener("abort", onAbort);
          resolve(outcome);
        },
        fail(error) {
          signal?.removeEventListener("abort", onAbort);
          reject(error);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiting.push(entry);
      this.#wake();
    });
  }

  /** Refuses new jobs and fails the waiting ones; a run under way still settles its jobs. */
  close(): void {
    const error = new LunaError("SHUTTING_DOWN", "The daemon is shutting down.");
    this.#closedWith = error;
    for (const entry of this.#waiting.splice(0)) entry.fail(error);
  }

  #wake(): void {
    if (this.#isActive) return;
    this.#isActive = true;
    const defer = this.#options.defer ?? setImmediate;
    defer(() => void this.#drain());
  }

  async #drain(): Promise<void> {
    for (;;) {
      const batch = planBatch(this.#waiting);
      if (batch.length === 0) break;
      const chosen = new Set(batch);
      this.#waiting = this.#waiting.filter((entry) => !chosen.has(entry));
      this.#running = batch.length;
      await this.#runIsolated(batch);
      this.#running = 0;
    }
    this.#isActive = false;
  }

  /** A batch that fails is run again job by job, so that one client's bad input fails only its own. */
  async #runIsolated(batch: readonly Waiting<J, R>[]): Promise<void> {
    const startedAtMs = this.#options.now();
    const error = await this.#run(batch, startedAtMs);
    if (error === undefined) return;
    const [only, ...others] = batch;
    if (only && others.length === 0) return only.fail(error);
    for (const entry of batch) {
      if (entry.isCancelled) continue;
      const own = await this.#run([entry], startedAtMs);
      if (own !== undefined) entry.fail(own);
    }
  }

  /** Runs and settles a batch; on failure settles nothing and returns the error. */
  async #run(batch: readonly Waiting<J, R>[], startedAtMs: number): Promise<unknown> {
    const facts = {
      rows: batch.reduce((sum, { rows }) => sum + rows, 0),
      clients: new Set(batch.map(({ job }) => job.client)).size,
    };
    this.#options.onBatch?.(facts);
    try {
      const results = await this.#options.execute(batch.map(({ job }) => job));
      if (results.length !== batch.length) {
        throw new Error(`The engine answered ${results.length} of ${batch.length} jobs.`);
      }
      for (const [index, entry] of batch.entries()) {
        const queueMs = startedAtMs - entry.arrivedAtMs;
        // The lengths agree, so each job has its result.
        entry.settle({ result: results[index] as R, queueMs, batch: facts });
      }
      return undefined;
    } catch (error) {
      return error ?? new Error("The engine failed without a reason.");
    }
  }
}

function cancelled(): LunaError {
  return new LunaError("CANCELLED", "The request was cancelled.");
}
