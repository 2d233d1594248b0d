/**
 * Tells watching sessions what happens. Events are gathered for a moment and sent together. A
 * watcher that reads slowly loses the oldest ones and is told how many: the daemon's memory is not
 * its to fill.
 */
import { LunaError } from "../kernel/index.ts";
import type { DaemonStatus, WatchEvent } from "../protocol/index.ts";
import type { EventHub } from "./event-hub.ts";
import {
  WATCH_BUFFER_BYTES_MAX,
  WATCH_EVENTS_MAX,
  WATCH_GATHER_MS,
  WATCH_STATUS_MS,
} from "./limits.ts";

/** The way to one watcher. */
export type Outlet = Readonly<{
  send: (events: readonly WatchEvent[], dropped: number) => void;
  /** Bytes that were sent and still wait in this process. */
  bufferedBytes: () => number;
}>;

type WatchDeskOptions = Readonly<{ hub: EventHub; status: () => Promise<DaemonStatus> }>;

export class WatchDesk {
  readonly #options: WatchDeskOptions;
  readonly #watchers = new Set<Watcher>();
  #timer: ReturnType<typeof setInterval> | undefined;
  #loaded: ReadonlyMap<string, number> | undefined;
  #isReading = false;

  constructor(options: WatchDeskOptions) {
    this.#options = options;
  }

  /** Sends events until `signal` fires, and rejects with CANCELLED then. */
  async watch(outlet: Outlet, signal: AbortSignal): Promise<never> {
    const watcher = new Watcher(outlet);
    const leave = this.#options.hub.subscribe((event) => {
      if (event.type !== "run") watcher.add(event);
    });
    this.#watchers.add(watcher);
    this.#timer ??= setInterval(() => void this.#tick(), WATCH_STATUS_MS).unref();
    try {
      watcher.add(statusEvent(await this.#options.status()));
      if (!signal.aborted)
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      throw new LunaError("CANCELLED", "The watch was ended.");
    } finally {
      leave();
      watcher.close();
      this.#watchers.delete(watcher);
      if (this.#watchers.size === 0) this.#rest();
    }
  }

  #rest(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#loaded = undefined;
  }

  /** One reading for all watchers; a reading that takes longer than a tick delays the next. */
  async #tick(): Promise<void> {
    if (this.#isReading) return;
    this.#isReading = true;
    try {
      const status = await this.#options.status();
      this.#tellModels(status);
      this.#options.hub.publish(statusEvent(status));
    } catch {
      // The engine is starting again; the next tick tells how it went.
    } finally {
      this.#isReading = false;
    }
  }

  #tellModels({ models }: DaemonStatus): void {
    const now = new Map(
      models.filter(({ copies }) => copies > 0).map(({ id, bytes }) => [id, bytes]),
    );
    const before = this.#loaded;
    this.#loaded = now;
    if (before === undefined) return;
    const tell = (change: "loaded" | "unloaded", model: string, bytes: number) =>
      this.#options.hub.publish({ type: "model", atMs: Date.now(), change, model, bytes });
    for (const [id, bytes] of now) if (!before.has(id)) tell("loaded", id, bytes);
    for (const [id, bytes] of before) if (!now.has(id)) tell("unloaded", id, bytes);
  }
}

function statusEvent(status: DaemonStatus): WatchEvent {
  return { type: "status", atMs: Date.now(), status };
}

class Watcher {
  readonly #outlet: Outlet;
  #events: WatchEvent[] = [];
  #dropped = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(outlet: Outlet) {
    this.#outlet = outlet;
  }

  add(event: WatchEvent): void {
    this.#events.push(event);
    if (this.#events.length > WATCH_EVENTS_MAX) {
      this.#events.shift();
      this.#dropped++;
    }
    this.#timer ??= setTimeout(() => this.#flush(), WATCH_GATHER_MS).unref();
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #flush(): void {
    this.#timer = undefined;
    if (this.#outlet.bufferedBytes() > WATCH_BUFFER_BYTES_MAX) {
      this.#timer = setTimeout(() => this.#flush(), WATCH_GATHER_MS).unref();
      return;
    }
    this.#outlet.send(this.#events, this.#dropped);
    this.#events = [];
    this.#dropped = 0;
  }
}
