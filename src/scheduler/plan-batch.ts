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

/**
 * The next run, for entries in the order of their turn; empty for an empty queue. The first entry
 * always runs, cut to `rowsFor` it where it may be cut. Others of its key join whole, or with what
 * fits of a job that is too large for any run.
 */
export function planBatch<J extends Job, E extends Waiting<J>>(
  ordered: readonly E[],
  rowsFor: (head: J) => number,
): Slice<E>[] {
  const [head] = ordered;
  const [first] = head?.ranges ?? [];
  if (head === undefined || first === undefined) return [];
  const cap = Math.max(1, Math.min(head.job.rowsMax, rowsFor(head.job)));
  const slices = [{ entry: head, range: head.job.isSplittable ? cut(first, cap) : first }];
  let room = cap - (slices[0]?.range.rows ?? 0);
  let tokens = head.job.tokens ?? 1;
  for (const entry of ordered.slice(1)) {
    if (room <= 0) break;
    const { job, ranges } = entry;
    const [range] = ranges;
    const isLarge = job.isSplittable === true && job.rows > cap;
    if (job.batchKey !== head.job.batchKey || range === undefined) continue;
    if (range.rows > room && !isLarge) continue;
    const joined = commonTokens(tokens, job.tokens ?? 1);
    if (joined === undefined) continue;
    tokens = joined;
    slices.push({ entry, range: cut(range, room) });
    room -= Math.min(range.rows, room);
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
