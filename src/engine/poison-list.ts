/**
 * Requests that took the engine down, by the digest of their content: one that did so twice is
 * refused, or its client would repeat it and nobody else would ever be served. A batch that dies
 * twice only makes its items suspects; each is then run alone, and one more death decides.
 */
import { createHash } from "node:crypto";
import { LRUCache } from "lru-cache";
import { LunaError } from "../kernel/index.ts";
import { digestTensor } from "../tensor/index.ts";
import { JOB_CRASHES_MAX, POISONED_MAX } from "./limits.ts";
import type { RunItem } from "./port.ts";

export class PoisonList {
  readonly #poisoned = new LRUCache<string, true>({ max: POISONED_MAX });
  readonly #suspects = new LRUCache<string, true>({ max: POISONED_MAX });

  /** Throws REQUEST_POISONED. Costs nothing while nothing has crashed. */
  check(net: string, items: readonly RunItem[]): void {
    if (this.#poisoned.size === 0) return;
    if (items.some((item) => this.#poisoned.has(digestItem(net, item)))) throw poisoned();
  }

  /** Crashes after which a run is given up. */
  crashesMax(net: string, items: readonly RunItem[]): number {
    const [only] = items;
    const isSuspect =
      only !== undefined &&
      items.length === 1 &&
      this.#suspects.size > 0 &&
      this.#suspects.has(digestItem(net, only));
    return isSuspect ? 1 : JOB_CRASHES_MAX;
  }

  /** After the last crash of a run: what to tell its caller. */
  blame(net: string, items: readonly RunItem[], error: LunaError): LunaError {
    const digests = items.map((item) => digestItem(net, item));
    const isAlone = items.length === 1;
    for (const digest of digests) (isAlone ? this.#poisoned : this.#suspects).set(digest, true);
    return isAlone ? poisoned(error) : error;
  }

  /** A run went well: its items are beyond suspicion. */
  clear(net: string, items: readonly RunItem[]): void {
    if (this.#suspects.size === 0) return;
    for (const item of items) this.#suspects.delete(digestItem(net, item));
  }
}

function digestItem(net: string, { tensors, loras, ...fields }: RunItem): string {
  const hash = createHash("sha256").update(net).update(JSON.stringify(fields));
  for (const { source, strength } of loras) {
    const name = source.type === "file" ? `${source.path}@${source.key}` : source.digest;
    hash.update(`${name}=${strength}\n`);
  }
  for (const [name, tensor] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1))) {
    hash.update(`${name} ${digestTensor(tensor)}\n`);
  }
  return hash.digest("hex");
}

function poisoned(cause?: LunaError): LunaError {
  return new LunaError(
    "REQUEST_POISONED",
    "This request has ended the engine twice; it is refused until the daemon is started again. The log says how the engine ended.",
    { cause },
  );
}
