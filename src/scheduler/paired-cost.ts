/**
 * Whether rows in one run cost more than the same rows in smaller runs, from pairs taken one right
 * after the other, so that both saw the same machine. Means count, not medians: other programs hit
 * a long run almost surely and a short one seldom, and a median would see the first alone. For the
 * same reason differences are averaged, not logarithms. Older pairs fade.
 */
import { PAIR_MEMORY, PAIR_OUTLIER, PAIRS_MIN, SURPRISES_MAX } from "./limits.ts";

/** A difference that rounding makes. */
const NOTHING = 1e-6;
/** Weight of the latest pair in what differences are divided by. */
const SCALE_ALPHA = 1 / 8;

export class PairedCost {
  #pairs = 0;
  #sum = 0;
  #squares = 0;
  #scaleMs = 0;
  /** Pairs in a row far off the mean, below 0 for those far below it. */
  #surprises = 0;

  /** Milliseconds a row in the larger run and in the smaller ones; above 0. */
  add(largeMs: number, smallMs: number): void {
    const middleMs = (largeMs + smallMs) / 2;
    const alpha = this.#pairs === 0 ? 1 : SCALE_ALPHA;
    this.#scaleMs += (middleMs - this.#scaleMs) * alpha;
    const difference = (largeMs - smallMs) / this.#scaleMs;
    const value = Math.max(-PAIR_OUTLIER, Math.min(PAIR_OUTLIER, difference));
    const distance = value - this.mean;
    const isFar = this.isKnown && Math.abs(distance) > 2 * this.#spread + NOTHING;
    const direction = isFar ? Math.sign(distance) : 0;
    const isSame = direction * this.#surprises > 0;
    this.#surprises = isSame ? this.#surprises + direction : direction;
    // The machine has changed: what was known does not hold.
    const isNew = Math.abs(this.#surprises) >= SURPRISES_MAX;
    const keep = isNew ? 0 : 1 - 1 / PAIR_MEMORY;
    this.#pairs = this.#pairs * keep + 1;
    this.#sum = this.#sum * keep + value;
    this.#squares = this.#squares * keep + value * value;
  }

  get pairs(): number {
    return this.#pairs;
  }

  /** Mean difference as a share of the time of a row; above 0 the larger run costs more. */
  get mean(): number {
    return this.#pairs === 0 ? 0 : this.#sum / this.#pairs;
  }

  /** Standard error of the mean; infinite before two pairs. */
  get error(): number {
    if (this.#pairs < 1.5) return Number.POSITIVE_INFINITY;
    return this.#spread / Math.sqrt(this.#pairs - 1);
  }

  get #spread(): number {
    return Math.sqrt(Math.max(0, this.#squares / this.#pairs - this.mean ** 2));
  }

  get isKnown(): boolean {
    return this.#pairs >= PAIRS_MIN;
  }

  /** Cost of a row in the larger run over that in smaller ones, so many errors on the safe side. */
  ratio(errors = 0): number {
    const difference = Math.min(PAIR_OUTLIER, this.mean + errors * this.error);
    return (2 + difference) / (2 - difference);
  }

  /** The larger run surely costs more than `tolerated`. */
  isLoss(tolerated: number): boolean {
    // Wider for few pairs, whose spread is known badly, and because it is asked after each pair.
    const errors = 2.5 + 6 / this.#pairs;
    return this.isKnown && this.mean - errors * this.error > tolerated;
  }

  /** It costs no more, as far as can be told. */
  isFair(tolerated: number): boolean {
    return this.isKnown && this.mean <= tolerated;
  }
}
