/**
 * One budget of bytes for many kinds of things that can be made again: parsed files, sent factors,
 * joined inputs, overlays. What a run has used stays until the next run begins, even beyond the
 * budget, so that nothing goes which is in use.
 */

/** Uses after which an entry counts as left behind, as a multiple of how many entries there are. */
const STALE_FACTOR = 8;

type Entry = { readonly bytes: number; readonly drop: () => void; usedAt: number; run: number };

export class ByteBudget {
  readonly #bytesMax: () => number;
  /** Least recently used first. */
  readonly #entries = new Set<Entry>();
  #bytes = 0;
  #uses = 0;
  #run = 0;
  #random = 1;

  /** The limit may change: other things may share the bytes. */
  constructor(bytesMax: number | (() => number)) {
    this.#bytesMax = typeof bytesMax === "number" ? () => bytesMax : bytesMax;
  }

  get bytesMax(): number {
    return this.#bytesMax();
  }

  get facts(): { entries: number; bytes: number } {
    return { entries: this.#entries.size, bytes: this.#bytes };
  }

  /** What earlier runs have used may go from now on. */
  startRun(): void {
    this.#run++;
    this.trim();
  }

  /** `drop` is called once, when the entry has to go. */
  add(bytes: number, drop: () => void): Entry {
    const entry: Entry = { bytes, drop, usedAt: ++this.#uses, run: this.#run };
    this.#entries.add(entry);
    this.#bytes += bytes;
    this.trim();
    return entry;
  }

  touch(entry: Entry): void {
    if (!this.#entries.delete(entry)) return;
    this.#entries.add(entry);
    entry.usedAt = ++this.#uses;
    entry.run = this.#run;
  }

  remove(entry: Entry): void {
    if (!this.#entries.delete(entry)) return;
    this.#bytes -= entry.bytes;
    entry.drop();
  }

  /** Drops entries until the rest fits, or is in use. */
  trim(): void {
    while (this.#bytes > this.bytesMax) {
      const victim = this.#victim();
      if (victim === undefined) return;
      this.remove(victim);
    }
  }

  /**
   * What nobody has used for long, else any: when more is in use by turns than fits, the one used
   * longest ago is the one needed next, and to drop it each time would mean never to hit.
   */
  #victim(): Entry | undefined {
    const idle = [...this.#entries].filter(({ run }) => run < this.#run);
    const [oldest] = idle;
    if (oldest === undefined) return undefined;
    const isStale = this.#uses - oldest.usedAt > STALE_FACTOR * this.#entries.size;
    return isStale ? oldest : idle[this.#nextRandom() % idle.length];
  }

  /** A linear congruential generator (Numerical Recipes): the same victims in each process. */
  #nextRandom(): number {
    this.#random = (Math.imul(this.#random, 1_664_525) + 1_013_904_223) >>> 0;
    return this.#random >>> 8;
  }
}

/** Values by key within a budget that it may share with others. */
export class ByteCache<Value> {
  readonly #budget: ByteBudget;
  readonly #bytesOf: (value: Value) => number;
  readonly #onDrop: (value: Value, key: string) => void;
  readonly #known = new Map<string, { value: Value; entry: Entry }>();

  constructor(
    budget: ByteBudget,
    bytesOf: (value: Value) => number,
    onDrop: (value: Value, key: string) => void = () => undefined,
  ) {
    this.#budget = budget;
    this.#bytesOf = bytesOf;
    this.#onDrop = onDrop;
  }

  get size(): number {
    return this.#known.size;
  }

  keys(): string[] {
    return [...this.#known.keys()];
  }

  get(key: string): Value | undefined {
    const found = this.#known.get(key);
    if (found === undefined) return undefined;
    this.#budget.touch(found.entry);
    return found.value;
  }

  set(key: string, value: Value): void {
    this.delete(key);
    const entry = this.#budget.add(this.#bytesOf(value), () => {
      this.#known.delete(key);
      this.#onDrop(value, key);
    });
    this.#known.set(key, { value, entry });
  }

  delete(key: string): void {
    const found = this.#known.get(key);
    if (found !== undefined) this.#budget.remove(found.entry);
  }
}
