/**
 * Which waiting rows run together. Pure: the caller owns the queue. There are no phases and no
 * windows: samplers live in the clients, each step is a job, new work joins at the next run.
 */
import type { Job, Range } from "./job.ts";
import { TOKENS_GROWTH_MAX } from "./limits.ts";

/** A job and the rows of it that no run has taken yet, first one first. */
export type Waiting<J extends Job> = Readonly<{ job: J; ranges: readonly Range[] }>;

/** Rows of one job in a run. */
export type Slice<E> = Readonly<{ entry: E; range: Range }>;

export type RowLimits<J extends Job> = Readonly<{
  /** Rows that fit into a run of such jobs at all. */
  rowsMost: (job: J) => number;
  /** Rows that a run which begins with this job, and so many rows of it, gains from. */
  rowsFor: (head: J, rows: number) => number;
}>;

/**
 * The next run, for entries in the order of their turn; empty for an empty queue. The rows of a job
 * run together, whatever a run gains from: which rows share a run changes the last bits. Only a job
 * that fits into no run is cut, always at the same rows. The first entry always runs; others of its
 * key join where they fit.
 */
export function planBatch<J extends Job, E extends Waiting<J>>(
  ordered: readonly E[],
  { rowsMost, rowsFor }: RowLimits<J>,
): Slice<E>[] {
  const most = (job: J) => Math.max(1, Math.min(job.rowsMax, rowsMost(job)));
  const next = ({ job, ranges: [range] }: E) =>
    range && job.isSplittable ? cut(range, most(job)) : range;
  const [head] = ordered;
  const first = head && next(head);
  if (head === undefined || first === undefined) return [];
  const slices = [{ entry: head, range: first }];
  let room = Math.min(most(head.job), rowsFor(head.job, first.rows)) - first.rows;
  let tokens = head.job.tokens ?? 1;
  for (const entry of ordered.slice(1)) {
    if (room <= 0) break;
    const { job } = entry;
    const range = next(entry);
    if (job.batchKey !== head.job.batchKey || range === undefined || range.rows > room) continue;
    const joined = commonTokens(tokens, job.tokens ?? 1);
    if (joined === undefined) continue;
    tokens = joined;
    slices.push({ entry, range });
    room -= range.rows;
  }
  return slices;
}

/** What is left of `ranges` when a run has taken `range`, which begins the first of them. */
export function without(ranges: readonly Range[], { rows }: Range): Range[] {
  const [first, ...others] = ranges;
  if (first === undefined || first.rows <= rows) return others;
  return [{ begin: first.begin + rows, rows: first.rows - rows }, ...others];
}

const cut = ({ begin, rows }: Range, most: number): Range => ({
  begin,
  rows: Math.min(rows, most),
});

/** The length both can be repeated to; undefined where that costs more than it saves. */
export function commonTokens(one: number, other: number): number | undefined {
  let [a, b] = [one, other];
  while (b > 0) [a, b] = [b, a % b];
  const multiple = (one / a) * other;
  return multiple <= TOKENS_GROWTH_MAX * Math.max(one, other) ? multiple : undefined;
}
