import { HANG_FACTOR, REQUEST_MS_MAX } from "./limits.ts";
import type { RunItem } from "./port.ts";

/**
 * When a run counts as hung: long after the slowest of its kind so far. Before a net has run there
 * is nothing to go by, and the longest wait is allowed.
 */
export class RunClock {
  readonly #hangMs: number;
  /** Slowest milliseconds a byte of input, by net. */
  readonly #slowest = new Map<string, number>();

  /** `hangMs`: no run counts as hung before. */
  constructor(hangMs: number) {
    this.#hangMs = hangMs;
  }

  limitMs(net: string, items: readonly RunItem[]): number {
    const slowest = this.#slowest.get(net);
    if (slowest === undefined) return REQUEST_MS_MAX;
    const expectedMs = slowest * bytesOf(items);
    return Math.min(REQUEST_MS_MAX, Math.max(this.#hangMs, HANG_FACTOR * expectedMs));
  }

  record(net: string, items: readonly RunItem[], ms: number): void {
    const rate = ms / Math.max(1, bytesOf(items));
    this.#slowest.set(net, Math.max(rate, this.#slowest.get(net) ?? 0));
  }
}

/** Residuals and hints are large beside what a run without them has, and cost little. */
const ASIDE = /^(control|hint)\./;

function bytesOf(items: readonly RunItem[]): number {
  let bytes = 0;
  for (const { tensors } of items) {
    for (const [name, tensor] of tensors) if (!ASIDE.test(name)) bytes += tensor.bytes.byteLength;
  }
  return bytes;
}
