/**
 * How many rows a run of one shape should have, measured while it serves. Rows are compared in
 * levels of powers of two; a level is kept only where rows per second rise by a clear margin, so a
 * device that gains nothing runs one row at a time, and large jobs leave gaps for small ones. It
 * starts at one row, tries the next level as soon as enough rows wait, and looks again at both
 * neighbours now and then.
 */
import {
  CAP_EXPLORE_RUNS,
  CAP_GAIN_MIN,
  CAP_KEYS_MAX,
  CAP_SAMPLES_MAX,
  CAP_SAMPLES_MIN,
} from "./limits.ts";

type Shape = {
  /** Milliseconds a row of the latest runs, by level. */
  readonly levels: Map<number, number[]>;
  level: number;
  runs: number;
  /** No run larger than this: one ran out of memory. */
  rowsMax: number;
};

export type CapStatus = Readonly<{
  key: string;
  /** Rows of a run. */
  rows: number;
  /** Measured, by the level of a run's rows. */
  rowsPerSecond: Readonly<Record<string, number>>;
}>;

/** The power of two that `rows` belong to: 3 and 4 are 4. */
const levelOf = (rows: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, rows)));

export class BatchCaps {
  readonly #shapes = new Map<string, Shape>();
  readonly #fixed: number | undefined;

  /** With `fixedRows` nothing is measured: runs have at most that many rows. */
  constructor(fixedRows?: number) {
    this.#fixed = fixedRows;
  }

  /** Rows the next run of this shape may have. */
  rowsFor(key: string): number {
    const shape = this.#shape(key);
    if (this.#fixed !== undefined) return Math.min(this.#fixed, shape.rowsMax);
    return Math.max(1, Math.min(this.#level(shape), shape.rowsMax));
  }

  /** What a run has taken. */
  record(key: string, rows: number, ms: number): void {
    if (this.#fixed !== undefined || rows < 1) return;
    const shape = this.#shape(key);
    const level = levelOf(rows);
    const samples = shape.levels.get(level) ?? [];
    samples.push(ms / rows);
    if (samples.length > CAP_SAMPLES_MAX) samples.shift();
    shape.levels.set(level, samples);
    shape.runs++;
    shape.level = bestLevel(shape);
  }

  /** A run of `rows` did not fit into memory. */
  limit(key: string, rows: number): void {
    const shape = this.#shape(key);
    shape.rowsMax = Math.max(1, Math.min(shape.rowsMax, Math.floor(rows / 2)));
  }

  /**
   * Expected milliseconds of a run; undefined before anything was measured. A level not yet seen
   * counts as a fifth faster than the one below, so that it is worth a try.
   */
  expectedMs(key: string, rows: number): number | undefined {
    const shape = this.#shapes.get(key);
    for (let level = levelOf(rows), hope = 1; shape && level >= 1; level /= 2, hope = 0.8) {
      const ms = median(shape.levels.get(level));
      if (ms !== undefined) return hope * ms * rows;
    }
    return undefined;
  }

  status(): CapStatus[] {
    return Array.from(this.#shapes, ([key, shape]) => {
      const levels = [...shape.levels].sort(([a], [b]) => a - b);
      const rates = levels.map(([level, samples]) => [level, 1000 / (median(samples) ?? 1)]);
      const rows = this.#fixed ?? Math.min(shape.level, shape.rowsMax);
      return { key, rows, rowsPerSecond: Object.fromEntries(rates) };
    });
  }

  #level({ levels, level, runs }: Shape): number {
    const isMeasured = (at: number) => (levels.get(at)?.length ?? 0) >= CAP_SAMPLES_MIN;
    if (!isMeasured(level)) return level;
    if (!isMeasured(level * 2)) return level * 2;
    const turn = runs % CAP_EXPLORE_RUNS;
    if (turn === 0) return level * 2;
    return turn === CAP_EXPLORE_RUNS / 2 ? Math.max(1, level / 2) : level;
  }

  #shape(key: string): Shape {
    const known = this.#shapes.get(key);
    // Taken out and put in again: the map keeps the order of use.
    if (known !== undefined) this.#shapes.delete(key);
    const shape = known ?? {
      ...{ levels: new Map(), level: 1, runs: 0, rowsMax: Number.POSITIVE_INFINITY },
    };
    this.#shapes.set(key, shape);
    const [oldest] = this.#shapes.keys();
    if (this.#shapes.size > CAP_KEYS_MAX && oldest !== undefined) this.#shapes.delete(oldest);
    return shape;
  }
}

/** The smallest level that no measured one beats by the margin. */
function bestLevel({ levels }: Shape): number {
  const measured = [...levels]
    .filter(([, samples]) => samples.length >= CAP_SAMPLES_MIN)
    .map(([level, samples]) => ({ level, ms: median(samples) ?? 0 }))
    .sort((a, b) => a.level - b.level);
  const least = Math.min(...measured.map(({ ms }) => ms));
  return measured.find(({ ms }) => ms <= least * CAP_GAIN_MIN)?.level ?? 1;
}

function median(samples: readonly number[] | undefined): number | undefined {
  if (samples === undefined || samples.length === 0) return undefined;
  return samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)];
}
