/**
 * A bounded queue in front of one device, or of several equal ones ("lanes"). Whatever has gathered
 * when a lane is free forms its next run. The contract: every accepted job settles exactly once,
 * with its own result, its own error, CANCELLED or DEADLINE_EXCEEDED.
 */
import { LunaError } from "../kernel/index.ts";
import { BatchCaps, type CapStatus } from "./batch-caps.ts";
import { Cadences, planWait } from "./cadences.ts";
import { FairShare } from "./fair-share.ts";
import type { Job, Range } from "./job.ts";
import { QUEUE_DEPTH_MAX, RETRY_MS_MAX, RETRY_MS_MIN, WAIT_MS_MAX } from "./limits.ts";
import { commonTokens, planBatch, type Slice } from "./plan-batch.ts";
import { QueueEntry } from "./queue-entry.ts";

export type BatchFacts = Readonly<{ rows: number; clients: number }>;
/** Rows of a job that a run computes. */
export type Part<J> = Readonly<{ job: J; range: Range }>;
export type Outcome<R> = Readonly<{ result: R; queueMs: number; batch: BatchFacts }>;

export type BatchQueueOptions<J, R> = Readonly<{
  /** Runs parts of one key together on one of the lanes; results in the order of the parts. */
  execute: (parts: readonly Part<J>[], lane: number) => Promise<readonly R[]>;
  /** The result of a job whose rows ran in several parts, given in the order of rows. */
  join: (parts: readonly R[]) => R;
  now: () => number;
  depthMax?: number;
  /** Devices, each of which has one run at a time. */
  lanes?: number;
  caps?: BatchCaps;
  /** Called once for each run, before it. */
  onBatch?: (facts: BatchFacts) => void;
  /** When an idle queue starts; a turn of the event loop lets what already arrived join. */
  defer?: (start: () => void) => void;
  /** Calls back after so many ms unless the function it returns is called. */
  later?: (call: () => void, ms: number) => () => void;
}>;

type Entry<J extends Job, R> = QueueEntry<J, R>;
/** A run and where it is done. */
type Run<J extends Job, R> = Readonly<{ lane: number; slices: readonly Slice<Entry<J, R>>[] }>;

export class BatchQueue<J extends Job, R> {
  readonly #options: BatchQueueOptions<J, R>;
  readonly #depthMax: number;
  readonly #lanesMax: number;
  readonly #caps: BatchCaps;
  readonly #later: (call: () => void, ms: number) => () => void;
  readonly #shares = new FairShare();
  readonly #cadences = new Cadences();
  /** Entries with rows that no run has taken. */
  #waiting: Entry<J, R>[] = [];
  /** Slices of the run under way on each busy lane. */
  readonly #lanes = new Map<number, readonly Slice<Entry<J, R>>[]>();
  #isWoken = false;
  /** The engine is idle on purpose, since when. */
  #pause: { sinceMs: number; cancel: () => void } | undefined;
  /** Mean engine time of a job, for Retry-After. */
  #jobMs = 0;
  #closedWith: LunaError | undefined;

  constructor(options: BatchQueueOptions<J, R>) {
    this.#options = options;
    this.#depthMax = options.depthMax ?? QUEUE_DEPTH_MAX;
    this.#lanesMax = options.lanes ?? 1;
    this.#caps = options.caps ?? new BatchCaps();
    this.#later = options.later ?? afterMs;
  }

  /** Jobs waiting, jobs in runs under way, and how many may wait. */
  get state(): Readonly<{ depth: number; running: number; depthMax: number }> {
    let running = 0;
    for (const slices of this.#lanes.values()) running += slices.length;
    return { depth: this.#waiting.length, running, depthMax: this.#depthMax };
  }

  /** Rows a run of each shape has, as measured. */
  get caps(): readonly CapStatus[] {
    return this.#caps.status();
  }

  /**
   * Waits for the job's turn and runs it. Rejects with QUEUE_FULL when too many wait, CANCELLED
   * when `signal` fires first (a run under way goes on, its result is dropped), DEADLINE_EXCEEDED
   * after `deadlineMs` without a result, SHUTTING_DOWN after `close`, or with what `execute` threw.
   */
  submit(job: J, signal?: AbortSignal, deadlineMs?: number): Promise<Outcome<R>> {
    if (this.#closedWith) return Promise.reject(this.#closedWith);
    if (signal?.aborted) return Promise.reject(cancelled());
    if (this.#waiting.length >= this.#depthMax) return Promise.reject(this.#full());
    return new Promise((resolve, reject) => {
      const nowMs = this.#options.now();
      const release: (() => void)[] = [];
      const entry: Entry<J, R> = new QueueEntry(job, nowMs, {
        resolve,
        reject,
        release: () => {
          for (const each of release) each();
          this.#waiting = this.#waiting.filter((other) => other !== entry);
        },
      });
      const onAbort = () => entry.fail(cancelled());
      signal?.addEventListener("abort", onAbort, { once: true });
      release.push(() => signal?.removeEventListener("abort", onAbort));
      if (deadlineMs !== undefined) {
        release.push(this.#later(() => entry.fail(tooLate(deadlineMs)), deadlineMs));
      }
      this.#cadences.arrived(job.client, { key: job.batchKey, rows: job.rows }, nowMs);
      this.#waiting.push(entry);
      this.#wake();
    });
  }

  /** Refuses new jobs and fails the waiting ones; a run under way still settles its jobs. */
  close(): void {
    const error = new LunaError("SHUTTING_DOWN", "The daemon is shutting down.");
    this.#closedWith = error;
    this.#pause?.cancel();
    for (const entry of [...this.#waiting]) entry.fail(error);
  }

  #full(): LunaError {
    const depth = this.#waiting.length;
    const expectedMs = (depth * this.#jobMs) / this.#lanesMax;
    const retryAfterMs = Math.min(RETRY_MS_MAX, Math.max(RETRY_MS_MIN, Math.ceil(expectedMs)));
    return new LunaError(
      "QUEUE_FULL",
      `${depth} requests wait for the engine, limit ${this.#depthMax}. Try again in ${retryAfterMs} ms.`,
      { details: { retryAfterMs } },
    );
  }

  #wake(): void {
    if (this.#isWoken || this.#lanes.size >= this.#lanesMax) return;
    this.#isWoken = true;
    const defer = this.#options.defer ?? setImmediate;
    defer(() => {
      this.#isWoken = false;
      this.#pump();
    });
  }

  /** Gives every free lane a run: work goes to whichever device is free first. */
  #pump(): void {
    for (;;) {
      const lane = this.#freeLane();
      if (lane === undefined) return;
      const run = { lane, slices: this.#plan(lane) };
      if (run.slices.length === 0 || this.#isWorthWaiting(run)) return;
      this.#endPause();
      for (const { entry, range } of run.slices) {
        entry.take(range);
        this.#shares.charge(entry.job, range.rows);
      }
      this.#waiting = this.#waiting.filter(({ ranges }) => ranges.length > 0);
      this.#lanes.set(lane, run.slices);
      void this.#runIsolated(run).finally(() => {
        this.#lanes.delete(lane);
        this.#pump();
      });
    }
  }

  #freeLane(): number | undefined {
    for (let lane = 0; lane < this.#lanesMax; lane++) if (!this.#lanes.has(lane)) return lane;
    return undefined;
  }

  #plan(lane: number): Slice<Entry<J, R>>[] {
    this.#shares.level(this.#waiting.map(({ job }) => job.client));
    const turn = (entry: Entry<J, R>) => this.#shares.served(entry.job.client);
    const ordered = this.#waiting.toSorted(
      (a, b) => turn(a) - turn(b) || a.rank - b.rank || a.arrivedAtMs - b.arrivedAtMs,
    );
    return planBatch<J, Entry<J, R>>(ordered, {
      rowsMost: (job) => this.#caps.rowsMost(this.#capKey([job], lane)),
      rowsFor: (head, own) => this.#caps.rowsFor({ key: this.#capKey([head], lane), own }),
    });
  }

  /** Pauses an idle engine for clients that are about to come, where a larger run pays for it. */
  #isWorthWaiting({ lane, slices }: Run<J, R>): boolean {
    const [head] = slices;
    const isAll = slices.length === this.#waiting.length;
    if (head === undefined || !isAll || this.#lanes.size > 0) return false;
    const nowMs = this.#options.now();
    const sinceMs = this.#pause?.sinceMs ?? nowMs;
    const { job } = head.entry;
    const kind = { key: this.#capKey([job], lane), own: head.range.rows };
    const plan = planWait({
      nowMs,
      endMs: sinceMs + WAIT_MS_MAX,
      rows: rowsOf(slices),
      cap: Math.min(job.rowsMax, this.#caps.rowsFor(kind)),
      due: this.#cadences.due(job.batchKey, nowMs),
      expectedMs: (rows) => this.#caps.expectedMs(kind, rows),
    });
    if (plan === undefined) return false;
    this.#pause?.cancel();
    const cancel = this.#later(() => {
      for (const client of plan.clients) this.#cadences.missed(client);
      this.#pump();
    }, plan.untilMs - nowMs);
    this.#pause = { sinceMs, cancel };
    return true;
  }

  #endPause(): void {
    this.#pause?.cancel();
    this.#pause = undefined;
  }

  /** A run that fails is done again job by job, so that one client's bad input fails only its own. */
  async #runIsolated(run: Run<J, R>): Promise<void> {
    const { lane, slices } = run;
    const error = await this.#run(run);
    if (error === undefined) return;
    const rows = rowsOf(slices);
    const isTooLarge = LunaError.isCode(error, "MEMORY_EXCEEDED") && rows > 1;
    const jobs = slices.map(({ entry }) => entry.job);
    if (isTooLarge) {
      // The first one's too, by whose key the next run is planned.
      for (const kept of [jobs, jobs.slice(0, 1)]) {
        this.#caps.limit(this.#capKey(kept, lane), lessThan(slices));
      }
    }
    if (isTooLarge && slices.every(({ entry }) => entry.job.isSplittable)) {
      for (const { entry, range } of slices) this.#giveBack(entry, range);
      return;
    }
    const [only, ...others] = slices;
    if (only && others.length === 0) return only.entry.fail(error);
    for (const slice of slices) {
      if (slice.entry.isSettled) continue;
      const own = await this.#run({ lane, slices: [slice] });
      if (own !== undefined) slice.entry.fail(own);
    }
  }

  #giveBack(entry: Entry<J, R>, range: Range): void {
    if (entry.isSettled) return;
    entry.giveBack(range);
    if (!this.#waiting.includes(entry)) this.#waiting.unshift(entry);
  }

  /** Runs and settles; on failure settles nothing and returns the error. */
  async #run(run: Run<J, R>): Promise<unknown> {
    const { lane, slices } = run;
    const batch = {
      rows: rowsOf(slices),
      clients: new Set(slices.map(({ entry }) => entry.job.client)).size,
    };
    this.#options.onBatch?.(batch);
    const beginMs = this.#options.now();
    try {
      const parts = slices.map(({ entry, range }) => ({ job: entry.job, range }));
      const results = await this.#options.execute(parts, lane);
      if (results.length !== slices.length) {
        throw new Error(`The engine answered ${results.length} of ${slices.length} jobs.`);
      }
      this.#measure(run, beginMs);
      for (const [index, { entry, range }] of slices.entries()) {
        // The lengths agree, so each job has its result.
        const done = { result: results[index] as R, range, beginMs, batch };
        if (entry.finish(done, this.#options)) {
          this.#cadences.answered(entry.job.client, this.#options.now());
        }
      }
      return undefined;
    } catch (error) {
      return error ?? new Error("The engine failed without a reason.");
    }
  }

  #measure({ lane, slices }: Run<J, R>, beginMs: number): void {
    const ms = this.#options.now() - beginMs;
    const jobs = slices.map(({ entry }) => entry.job);
    const own = slices[0]?.range.rows ?? 1;
    this.#caps.record({ key: this.#capKey(jobs, lane), own }, rowsOf(slices), ms);
    this.#jobMs = this.#jobMs * 0.9 + (ms / slices.length) * 0.1;
  }

  /** Contexts of another length are another amount of work, and devices differ. */
  #capKey(jobs: readonly Job[], lane: number): string {
    const tokens = jobs.reduce((all, job) => commonTokens(all, job.tokens ?? 1) ?? all, 1);
    const parts = [jobs[0]?.batchKey ?? ""];
    if (tokens > 1) parts.push(`t${tokens}`);
    if (this.#lanesMax > 1) parts.push(`device ${lane}`);
    return parts.join(" ");
  }
}

const rowsOf = (slices: readonly Slice<unknown>[]): number =>
  slices.reduce((sum, { range }) => sum + range.rows, 0);

/** Half the rows of a run that did not fit, but not less than one of its jobs: it may fit alone. */
function lessThan(slices: readonly Slice<unknown>[]): number {
  const half = Math.floor(rowsOf(slices) / 2);
  return slices.length === 1 ? half : Math.max(half, ...slices.map(({ range }) => range.rows));
}

function afterMs(call: () => void, ms: number): () => void {
  const timer = setTimeout(call, ms);
  return () => clearTimeout(timer);
}

function cancelled(): LunaError {
  return new LunaError("CANCELLED", "The request was cancelled.");
}

function tooLate(deadlineMs: number): LunaError {
  return new LunaError("DEADLINE_EXCEEDED", `The request was not done within ${deadlineMs} ms.`);
}
