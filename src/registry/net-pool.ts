/**
 * The nets that are loaded: one copy of each however many ask for it, within a byte budget. What
 * was used longest ago goes first; what is pinned or in use never goes. Changes to what is loaded
 * happen one after another; a net that is ready is handed out without waiting for them.
 */
import type { ComponentName } from "../checkpoint/index.ts";
import { type Logger, LunaError } from "../kernel/index.ts";
import { planEviction, type Resident } from "./plan-eviction.ts";

/** What loads nets: the engine, or a fake. */
export interface Loader {
  /** `bytes`: what the net takes while loaded. */
  load(path: string, component: ComponentName): Promise<{ bytes: number; ms: number }>;
  unload(path: string, component?: ComponentName): Promise<void>;
}

export type NetRequest = Readonly<{
  path: string;
  component: ComponentName;
  /** Of the file's content: another one means that the file was replaced. */
  fingerprint: string;
  /** What it is expected to take; asked only when it is loaded, for it looks at every weight. */
  estimateBytes: () => number;
}>;

export type NetStatus = Readonly<{
  path: string;
  component: ComponentName;
  state: "loading" | "ready";
  bytes: number;
  users: number;
}>;

type Net = {
  readonly key: string;
  readonly path: string;
  readonly component: ComponentName;
  readonly fingerprint: string;
  state: "loading" | "ready";
  bytes: number;
  users: number;
  usedAt: number;
  /** Called when the last user has gone. */
  onIdle: (() => void)[];
};

export type NetPoolOptions = Readonly<{ loader: Loader; bytesMax: number; logger: Logger }>;

export class NetPool {
  readonly #options: NetPoolOptions;
  readonly #nets = new Map<string, Net>();
  readonly #pinnedPaths = new Set<string>();
  /** Loads under way, by net and content: all who ask share one. */
  readonly #pending = new Map<string, Promise<void>>();
  #tail: Promise<unknown> = Promise.resolve();
  #uses = 0;

  constructor(options: NetPoolOptions) {
    this.#options = options;
  }

  /** Loads the net unless it is ready, and holds it until the function returned is called. */
  async acquire(request: NetRequest): Promise<() => void> {
    const key = keyOf(request.path, request.component);
    for (;;) {
      const net = this.#nets.get(key);
      if (net?.state === "ready" && net.fingerprint === request.fingerprint) return this.#hold(net);
      if (net?.state === "ready") await this.#idle(net);
      await this.#ensure(key, request);
    }
  }

  /** Unloads the nets of a file (or one of them) once nobody uses them. */
  async unload(path: string, component?: ComponentName): Promise<void> {
    for (;;) {
      const inUse = await this.#serially(async () => {
        let waiting: Net | undefined;
        for (const net of [...this.#nets.values()]) {
          if (net.path !== path || (component ?? net.component) !== net.component) continue;
          if (net.users > 0) waiting = net;
          else await this.#remove(net);
        }
        return waiting;
      });
      if (inUse === undefined) return;
      await this.#idle(inUse);
    }
  }

  /** Unloads what was used longest ago and is neither pinned nor in use; false if nothing is. */
  evictIdle(): Promise<boolean> {
    return this.#serially(() => this.#evictOne());
  }

  pin(path: string): void {
    this.#pinnedPaths.add(path);
  }

  unpin(path: string): void {
    this.#pinnedPaths.delete(path);
  }

  isPinned(path: string): boolean {
    return this.#pinnedPaths.has(path);
  }

  status(): readonly NetStatus[] {
    return Array.from(this.#nets.values(), ({ path, component, state, bytes, users }) => {
      return { path, component, state, bytes, users };
    });
  }

  /**
   * Waited for outside of what happens one after another: the user of a net may itself wait there
   * for another one.
   */
  async #idle(net: Net): Promise<void> {
    while (net.users > 0) await new Promise<void>((resolve) => net.onIdle.push(resolve));
  }

  #hold(net: Net): () => void {
    net.users += 1;
    net.usedAt = ++this.#uses;
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      net.users -= 1;
      if (net.users === 0) for (const done of net.onIdle.splice(0)) done();
    };
  }

  #ensure(key: string, request: NetRequest): Promise<void> {
    const pendingKey = `${key}\n${request.fingerprint}`;
    const known = this.#pending.get(pendingKey);
    if (known !== undefined) return known;
    const pending = this.#serially(() => this.#load(key, request)).finally(() =>
      this.#pending.delete(pendingKey),
    );
    this.#pending.set(pendingKey, pending);
    return pending;
  }

  async #load(key: string, request: NetRequest): Promise<void> {
    const { path, component, fingerprint } = request;
    const old = this.#nets.get(key);
    if (old?.fingerprint === fingerprint) return;
    if (old !== undefined && old.users > 0) return; // Who asked waits for it, and asks again.
    if (old !== undefined) await this.#remove(old);
    const bytesEstimate = request.estimateBytes();
    await this.#makeRoom(request, bytesEstimate);
    const net: Net = {
      ...{ key, path, component, fingerprint, state: "loading", bytes: bytesEstimate },
      ...{ users: 1, usedAt: ++this.#uses, onIdle: [] },
    };
    this.#nets.set(key, net);
    try {
      const { bytes, ms } = await this.#loadWithRoom(request);
      net.bytes = bytes;
      await this.#makeRoom(request, 0);
      this.#options.logger.info("model.loaded", { path, component, bytes, ms });
    } catch (error) {
      this.#nets.delete(key);
      await this.#options.loader.unload(path, component).catch(() => undefined);
      throw error;
    }
    net.users = 0;
    net.state = "ready";
  }

  /** The device may be full before the budget is: what is idle goes, one by one. */
  async #loadWithRoom({ path, component }: NetRequest): Promise<{ bytes: number; ms: number }> {
    for (;;) {
      try {
        return await this.#options.loader.load(path, component);
      } catch (error) {
        if (!LunaError.isCode(error, "MEMORY_EXCEEDED")) throw error;
        if (!(await this.#evictOne())) throw error;
      }
    }
  }

  async #evictOne(): Promise<boolean> {
    const total = this.#residents().reduce((sum, { bytes }) => sum + bytes, 0);
    const [key] = planEviction(this.#residents(), 0, total - 1) ?? [];
    const net = key === undefined ? undefined : this.#nets.get(key);
    if (net === undefined) return false;
    await this.#remove(net);
    return true;
  }

  async #makeRoom({ path, component }: NetRequest, bytes: number): Promise<void> {
    const { bytesMax } = this.#options;
    for (;;) {
      // Planned anew after each: what was idle may be in use by now.
      const keys = planEviction(this.#residents(), bytes, bytesMax);
      if (keys === undefined) {
        const used = this.#residents().reduce((sum, resident) => sum + resident.bytes, 0);
        throw new LunaError(
          "MEMORY_EXCEEDED",
          `${component} of ${path} needs ${mib(bytes)}; ${mib(used)} of ${mib(bytesMax)} are taken by models that are pinned or in use. Unpin one, or raise memoryMiB.`,
        );
      }
      const net = this.#nets.get(keys[0] ?? "");
      if (net === undefined) return;
      await this.#remove(net);
    }
  }

  #residents(): Resident[] {
    return Array.from(this.#nets.values(), (net) => ({
      ...net,
      isPinned: this.#pinnedPaths.has(net.path),
    }));
  }

  /** Of an idle net. Taken off the list before anything is awaited, so that nobody acquires it. */
  async #remove(net: Net): Promise<void> {
    this.#nets.delete(net.key);
    const { path, component, bytes } = net;
    await this.#options.loader.unload(path, component);
    this.#options.logger.info("model.unloaded", { path, component, bytes });
  }

  #serially<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(task);
    this.#tail = result.catch(() => undefined);
    return result;
  }
}

function keyOf(path: string, component: ComponentName): string {
  return `${component}\n${path}`;
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 1024 ** 2)} MiB`;
}
