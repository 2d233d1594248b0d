/**
 * Who goes next: the client that has had the least work for its share. It is deficit round robin's
 * division of the engine (cost over weight) with a shorter wait: a small job need not see a whole
 * round of large ones, only the run under way. A client that was idle starts level with the others,
 * so nobody saves up.
 */
import { type Job, PRIORITY_SHARE } from "./job.ts";

export class FairShare {
  /** Work had, over share, of clients that are ahead of `#level`. */
  readonly #served = new Map<string, number>();
  /** The least of all that wait. */
  #level = 0;

  /** What `client` has had; the least goes first. */
  served(client: string): number {
    return Math.max(this.#level, this.#served.get(client) ?? 0);
  }

  /** Call it before each choice with all clients that wait. */
  level(waiting: Iterable<string>): void {
    let least = Number.POSITIVE_INFINITY;
    for (const client of waiting) least = Math.min(least, this.served(client));
    if (least === Number.POSITIVE_INFINITY) return;
    this.#level = least;
    for (const [client, served] of this.#served) {
      if (served <= least) this.#served.delete(client);
    }
  }

  charge({ client, rowCost, priority = "normal", weight = 1 }: Job, rows: number): void {
    const share = PRIORITY_SHARE[priority] * weight;
    this.#served.set(client, this.served(client) + (rows * rowCost) / share);
  }
}
