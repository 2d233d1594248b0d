/** What happens in the daemon, for those who count it and those who watch it. */
import type { WatchEvent } from "../protocol/index.ts";

/** A request that ran a net, as its session saw it; counted, not told to watchers. */
export type RunEvent = Readonly<{
  type: "run";
  op: string;
  queueMs: number;
  engineMs: number;
  /** From the arrival of the frame to its answer. */
  totalMs: number;
}>;

export type DaemonEvent = WatchEvent | RunEvent;
type Listener = (event: DaemonEvent) => void;

export class EventHub {
  readonly #listeners = new Set<Listener>();

  publish(event: DaemonEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  /** Returns what ends the subscription. A listener must not throw. */
  subscribe(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}
