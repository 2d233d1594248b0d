import { FINGERPRINT_AGE_MS_MAX } from "./limits.ts";
import { type Fingerprint, readFingerprint } from "./model-files.ts";

/**
 * Fingerprints remembered for a moment: every step of every client asks, and the disk answers slowly
 * under load. A file that was replaced is noticed when the moment is over; one that is missing is
 * looked for again each time.
 */
export class Fingerprints {
  readonly #nowMs: () => number;
  readonly #known = new Map<
    string,
    { readAtMs: number; print: Promise<Fingerprint | undefined> }
  >();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  read(path: string): Promise<Fingerprint | undefined> {
    const nowMs = this.#nowMs();
    const known = this.#known.get(path);
    if (known !== undefined && nowMs - known.readAtMs < FINGERPRINT_AGE_MS_MAX) return known.print;
    const print = readFingerprint(path);
    this.#known.set(path, { readAtMs: nowMs, print });
    void print.then((found) => {
      if (found === undefined) this.#known.delete(path);
    });
    return print;
  }
}
