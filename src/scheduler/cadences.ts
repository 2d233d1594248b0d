/**
 * When clients come back. A sampler asks for its next step a steady while after the answer to the
 * last; an engine that would run a small batch may wait that while for the rest. Without it,
 * clients in lockstep fall into two groups that take turns, each with half a batch.
 */
import { CADENCE_MISSES_MAX, CLIENTS_MAX, WAIT_GAIN_MIN, WAIT_MS_MAX } from "./limits.ts";

type Cadence = {
  key: string;
  rows: number;
  /** When its latest answer went out; undefined while a request of it is here. */
  answeredAtMs: number | undefined;
  /** Mean and mean deviation of the time from answer to next request; undefined before the first. */
  gapMs: number | undefined;
  deviationMs: number;
  misses: number;
};

/** A step that is expected. */
export type Due = Readonly<{ client: string; rows: number; latestMs: number }>;

/** Weight of the latest gap in the mean. */
const ALPHA = 0.25;

export class Cadences {
  readonly #clients = new Map<string, Cadence>();

  arrived(client: string, job: { key: string; rows: number }, nowMs: number): void {
    const known = this.#clients.get(client);
    if (known?.key === job.key) {
      if (known.answeredAtMs !== undefined) addGap(known, nowMs - known.answeredAtMs);
      known.answeredAtMs = undefined;
      known.rows = job.rows;
      return;
    }
    this.#clients.delete(client);
    const fresh = { answeredAtMs: undefined, gapMs: undefined, deviationMs: 0, misses: 0 };
    this.#clients.set(client, { ...job, ...fresh });
    const [oldest] = this.#clients.keys();
    if (this.#clients.size > CLIENTS_MAX && oldest !== undefined) this.#clients.delete(oldest);
  }

  answered(client: string, nowMs: number): void {
    const known = this.#clients.get(client);
    if (known !== undefined) known.answeredAtMs = nowMs;
  }

  /** Clients whose next step of `key` should come soon, soonest first. */
  due(key: string, nowMs: number): Due[] {
    const due: Due[] = [];
    for (const [client, cadence] of this.#clients) {
      const { answeredAtMs, gapMs, deviationMs, rows } = cadence;
      if (cadence.key !== key || answeredAtMs === undefined || gapMs === undefined) continue;
      if (cadence.misses >= CADENCE_MISSES_MAX) continue;
      const latestMs = answeredAtMs + gapMs + 2 * deviationMs;
      if (latestMs > nowMs) due.push({ client, rows, latestMs });
    }
    return due.sort((a, b) => a.latestMs - b.latestMs);
  }

  /** It was waited for in vain. */
  missed(client: string): void {
    const known = this.#clients.get(client);
    if (known?.answeredAtMs !== undefined) known.misses++;
  }
}

function addGap(cadence: Cadence, gapMs: number): void {
  // A pause between two pictures is no gap between steps.
  if (gapMs > 10 * WAIT_MS_MAX) return;
  const isFirst = cadence.gapMs === undefined;
  const off = Math.abs(gapMs - (cadence.gapMs ?? gapMs));
  cadence.gapMs = isFirst ? gapMs : (cadence.gapMs ?? 0) * (1 - ALPHA) + gapMs * ALPHA;
  cadence.deviationMs = isFirst ? gapMs / 2 : cadence.deviationMs * (1 - ALPHA) + off * ALPHA;
  cadence.misses = 0;
}

export type WaitFacts = Readonly<{
  nowMs: number;
  /** No wait ends after it. */
  endMs: number;
  /** Rows that would run now, and how many a run may have. */
  rows: number;
  cap: number;
  due: readonly Due[];
  expectedMs: (rows: number) => number | undefined;
}>;

/** The moment until which an idle engine should wait, and for whom; undefined: run now. */
export function planWait(facts: WaitFacts): { untilMs: number; clients: string[] } | undefined {
  const { nowMs, endMs, cap, due, expectedMs } = facts;
  let rows = facts.rows;
  let savedMs = 0;
  let best = { gainMs: 0, count: 0 };
  for (const [index, next] of due.entries()) {
    if (rows + next.rows > cap || next.latestMs > endMs) break;
    const [here, alone, joined] = [rows, next.rows, rows + next.rows].map(expectedMs);
    if (here === undefined || alone === undefined || joined === undefined) break;
    savedMs += here + alone - joined;
    rows += next.rows;
    // What is saved must be more than what clocks err by.
    if (savedMs < WAIT_GAIN_MIN * joined) continue;
    // Half of it is kept: those who wait pay now, the gain is an expectation.
    const gainMs = savedMs / 2 - (next.latestMs - nowMs);
    if (gainMs > best.gainMs) best = { gainMs, count: index + 1 };
  }
  const last = due[best.count - 1];
  if (last === undefined) return undefined;
  return { untilMs: last.latestMs, clients: due.slice(0, best.count).map(({ client }) => client) };
}
