/**
 * How many rows a run of one kind of request may have, measured while it serves. Rows are counted in
 * levels, powers of two. A kind starts at a high level and stays where requests together cost no
 * more than each alone, nor more than in runs of half the size; where they do cost more, it goes
 * down a level. Now and then a run is followed by smaller ones for comparison (a trial), rarely
 * where the answer is clear; the next level up is tried again the same way. What trials can lose is
 * bounded: the larger the loss, the rarer they are.
 */
import {
  CAP_KEYS_MAX,
  CAP_LEVEL_START,
  LOSS_TOLERATED,
  REFERENCE_ROWS_MAX,
  REFERENCE_RUNS_MAX,
  RETRIAL_SHARE,
  TRIAL_RUNS_MAX,
  TRIAL_SHARE,
} from "./limits.ts";
import { PairedCost } from "./paired-cost.ts";

/** Requests that are alike: their shape, and the rows that each brings, two with CFG. */
export type Kind = Readonly<{ key: string; own: number }>;

/** A larger run, and smaller ones right after it. */
type Trial = {
  readonly level: number;
  readonly msPerRow: number;
  /** Rows of the smaller runs. */
  readonly reference: number;
  rows: number;
  ms: number;
  /** Runs since it began; others come between when rows are few. */
  runs: number;
};

/** Trials of one level against smaller runs of `reference` rows. */
type Comparison = Readonly<{ reference: number; cost: PairedCost }> & {
  /** Rows served at that level, or for a level above the cap at the cap, since its last trial. */
  rowsSince: number;
};

type Shape = {
  readonly kind: Kind;
  /** Of a request alone: no run is smaller. */
  readonly least: number;
  level: number;
  readonly comparisons: Map<number, readonly Comparison[]>;
  /** Levels that runs have had. */
  readonly seen: Set<number>;
  /** Mean milliseconds of a row of a request alone, judged by all runs. */
  rowMs: number | undefined;
  trial: Trial | undefined;
  /** The next run may be of the level above. */
  isReaching: boolean;
};

export type CapStatus = Readonly<{
  key: string;
  requestRows: number;
  /** Rows of a run. */
  rows: number;
  /** Measured, by the level of a run's rows. */
  rowsPerSecond: Readonly<Record<string, number>>;
}>;

/** The power of two that `rows` belong to: 3 and 4 are 4. */
const levelOf = (rows: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, rows)));
/** Weight of the latest run in the mean. */
const ALPHA = 0.2;

export class BatchCaps {
  readonly #shapes = new Map<string, Shape>();
  /** No run of these shapes is larger: one ran out of memory. */
  readonly #limits = new Map<string, number>();
  readonly #fixed: number | undefined;

  /** With `fixedRows` nothing is measured: runs have at most that many rows. */
  constructor(fixedRows?: number) {
    this.#fixed = fixedRows;
  }

  /** Rows that no run of this shape exceeds, a single request's neither. */
  rowsMost(key: string): number {
    return Math.min(
      this.#fixed ?? Number.POSITIVE_INFINITY,
      this.#limits.get(key) ?? Number.POSITIVE_INFINITY,
    );
  }

  /** Rows the next run of this kind may have: a request's own at least, if they fit at all. */
  rowsFor(kind: Kind): number {
    const { level, trial, isReaching } = this.#shape(kind);
    const rows = this.#fixed ?? trial?.reference ?? (isReaching ? level * 2 : level);
    return Math.min(Math.max(kind.own, rows), this.rowsMost(kind.key));
  }

  /** What a run has taken. */
  record(kind: Kind, rows: number, ms: number): void {
    if (this.#fixed !== undefined || rows < 1) return;
    const shape = this.#shape(kind);
    const level = levelOf(rows);
    if (!shape.seen.has(level)) {
      // The first run of a size makes buffers that later ones find made.
      shape.seen.add(level);
      shape.rowMs ??= ms / rows;
      return;
    }
    const rowMs = ms / rows / (relativeCost(shape, level) ?? 1);
    shape.rowMs = (shape.rowMs ?? rowMs) * (1 - ALPHA) + rowMs * ALPHA;
    if (shape.trial !== undefined) continueTrial(shape, shape.trial, { rows, ms });
    else if (ms > 0) considerTrial(shape, { rows, ms });
  }

  /** More than `rows` do not fit into memory. */
  limit(key: string, rows: number): void {
    const most = Math.max(1, Math.min(this.rowsMost(key), rows));
    this.#limits.delete(key);
    this.#limits.set(key, most);
    forgetOldest(this.#limits);
  }

  /**
   * Expected milliseconds of a run, on the safe side; undefined before anything was measured. A
   * level not yet known counts as a fifth faster than the one below, so that it is worth a try.
   */
  expectedMs(kind: Kind, rows: number): number | undefined {
    const shape = this.#shapes.get(nameOf(kind));
    if (shape?.rowMs === undefined) return undefined;
    for (let level = levelOf(rows), hope = 1; ; level /= 2, hope = 0.8) {
      const cost = level <= shape.least ? 1 : relativeCost(shape, level, 1);
      if (cost !== undefined) return hope * cost * shape.rowMs * rows;
    }
  }

  status(): CapStatus[] {
    return Array.from(this.#shapes.values(), (shape) => {
      const levels = [...shape.seen].sort((a, b) => a - b);
      const rates = levels.map((level) => {
        const ms = (shape.rowMs ?? 1) * (relativeCost(shape, level) ?? 1);
        return [level, 1000 / ms] as const;
      });
      const { key, own } = shape.kind;
      const rows = Math.min(this.#fixed ?? shape.level, this.rowsMost(key));
      return { key, requestRows: own, rows, rowsPerSecond: Object.fromEntries(rates) };
    });
  }

  #shape(kind: Kind): Shape {
    const name = nameOf(kind);
    const known = this.#shapes.get(name);
    // Taken out and put in again: the map keeps the order of use.
    if (known !== undefined) this.#shapes.delete(name);
    const least = levelOf(kind.own);
    const shape = known ?? {
      ...{ kind: { key: kind.key, own: kind.own }, least, level: Math.max(CAP_LEVEL_START, least) },
      ...{ comparisons: new Map(), seen: new Set<number>() },
      ...{ rowMs: undefined, trial: undefined, isReaching: false },
    };
    this.#shapes.set(name, shape);
    forgetOldest(this.#shapes);
    return shape;
  }
}

const nameOf = ({ key, own }: Kind): string => `${own} ${key}`;

function forgetOldest(map: Map<string, unknown>): void {
  const [oldest] = map.keys();
  if (map.size > CAP_KEYS_MAX && oldest !== undefined) map.delete(oldest);
}

/** A row's cost in runs of `level` over that in a request alone, so many errors on the safe side. */
function relativeCost(shape: Shape, level: number, errors = 0): number | undefined {
  const { comparisons, least } = shape;
  const cost = comparisons.get(level)?.find(({ reference }) => reference === least)?.cost;
  return cost?.isKnown ? cost.ratio(errors) : undefined;
}

/** A level is compared with requests alone, and with half its size. */
function comparisonsOf(shape: Shape, level: number): readonly Comparison[] {
  const known = shape.comparisons.get(level);
  if (known !== undefined) return known;
  const references = [...new Set([shape.least, level / 2])];
  const fresh = references.map((reference) => {
    return { reference, cost: new PairedCost(), rowsSince: 0 };
  });
  shape.comparisons.set(level, fresh);
  return fresh;
}

type Run = Readonly<{ rows: number; ms: number }>;

/** After a run outside a trial: begins one, or reaches for the next level. */
function considerTrial(shape: Shape, { rows, ms }: Run): void {
  const level = levelOf(rows);
  const isHigher = shape.isReaching && level > shape.level;
  shape.isReaching = false;
  const comparisons = level > shape.least ? comparisonsOf(shape, level) : [];
  for (const each of comparisons) each.rowsSince += rows;
  const next = isHigher ? leastSure(comparisons) : comparisons.find((each) => isDue(each, rows));
  if (next !== undefined) {
    next.rowsSince = 0;
    const { reference } = next;
    shape.trial = { level, reference, msPerRow: ms / rows, rows: 0, ms: 0, runs: 0 };
    return;
  }
  // Only a full run tells that more rows may wait.
  if (level !== shape.level || rows + shape.kind.own <= shape.level) return;
  const above = comparisonsOf(shape, level * 2);
  for (const each of above) each.rowsSince += rows;
  const loss = Math.max(0, ...above.map(({ cost }) => cost.mean));
  const isGivenUp = above.some(({ cost }) => cost.isLoss(LOSS_TOLERATED));
  const share = isGivenUp ? RETRIAL_SHARE : TRIAL_SHARE;
  const rowsSince = Math.min(...above.map((each) => each.rowsSince));
  shape.isReaching = rowsSince >= (2 * rows * rarity(loss)) / share;
}

/** Whether a level in use, of which a run has just had `rows`, should be compared now. */
function isDue({ cost, rowsSince }: Comparison, rows: number): boolean {
  // In doubt, larger and smaller runs take turns: whichever is worse has half the rows.
  if (cost.mean > 0) return true;
  if (!cost.isKnown) return rowsSince > rows;
  const runs = (rarity(-cost.mean) * (1 + cost.pairs / 8)) / TRIAL_SHARE;
  return rowsSince >= rows * Math.min(TRIAL_RUNS_MAX, runs);
}

/** What stands most in the way of a level: the comparison that it loses, or the least known one. */
function leastSure(comparisons: readonly Comparison[]): Comparison | undefined {
  const unknown = comparisons.filter(({ cost }) => !cost.isKnown);
  const candidates = unknown.length > 0 ? unknown : comparisons;
  return candidates.toSorted((a, b) => b.cost.mean - a.cost.mean)[0];
}

/** What a trial loses is about the distance, so trials are rarer by it. */
const rarity = (distance: number): number => 1 + 20 * distance;

function continueTrial(shape: Shape, trial: Trial, { rows, ms }: Run): void {
  trial.runs++;
  if (levelOf(rows) === trial.reference) {
    trial.rows += rows;
    trial.ms += ms;
  }
  const wanted = Math.max(trial.reference, Math.min(trial.level, REFERENCE_ROWS_MAX));
  if (trial.rows < wanted) {
    if (trial.runs >= REFERENCE_RUNS_MAX) shape.trial = undefined;
    return;
  }
  shape.trial = undefined;
  const comparisons = comparisonsOf(shape, trial.level);
  const own = comparisons.find(({ reference }) => reference === trial.reference);
  if (trial.ms > 0) own?.cost.add(trial.msPerRow, trial.ms / trial.rows);
  if (trial.level <= shape.level) {
    if (own?.cost.isLoss(LOSS_TOLERATED)) shape.level = trial.level / 2;
  } else if (comparisons.every(({ cost }) => cost.isFair(LOSS_TOLERATED))) {
    shape.level = trial.level;
  }
}
