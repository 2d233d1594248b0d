import type { ComponentName, Engine, EngineInfo, LoraUse, RunItem, RunOutput } from "./port.ts";

/**
 * Several devices as one engine. Every net is loaded on each of them; who queues runs says which is
 * free, otherwise a run goes to the one that has the fewest under way. On CPUs the copies map the same
 * file; GPUs hold one each.
 */
export class EnginePool implements Engine {
  readonly #engines: readonly Engine[];
  readonly #running = new Map<Engine, number>();

  constructor(engines: readonly Engine[]) {
    this.#engines = engines;
  }

  get lanes(): number {
    return this.#engines.length;
  }

  /** On all or on none. */
  async load(path: string, component: ComponentName): Promise<{ bytes: number; ms: number }> {
    const loads = this.#engines.map((engine) => engine.load(path, component));
    const settled = await Promise.allSettled(loads);
    const failed = settled.find((load) => load.status === "rejected");
    if (failed !== undefined) {
      await this.unload(path, component);
      throw failed.reason;
    }
    const done = await Promise.all(loads);
    return {
      bytes: done.reduce((sum, { bytes }) => sum + bytes, 0),
      ms: Math.max(...done.map(({ ms }) => ms)),
    };
  }

  async unload(path: string, component?: ComponentName): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.unload(path, component)));
  }

  async run(
    path: string,
    component: ComponentName,
    items: readonly RunItem[],
    { lane }: { lane?: number } = {},
  ): Promise<{ outputs: readonly RunOutput[]; engineMs: number }> {
    const load = (engine: Engine) => this.#running.get(engine) ?? 0;
    const least = this.#engines.reduce((best, each) => (load(each) < load(best) ? each : best));
    const engine = lane === undefined ? least : (this.#engines[lane] ?? least);
    this.#running.set(engine, load(engine) + 1);
    try {
      return await engine.run(path, component, items);
    } finally {
      this.#running.set(engine, load(engine) - 1);
    }
  }

  /** On all devices: which of them takes the run is open. */
  async prepare(path: string, component: ComponentName, loras: readonly LoraUse[]): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.prepare?.(path, component, loras)));
  }

  /** The process is the first device's; figures are sums. */
  async info(): Promise<EngineInfo> {
    const infos = await Promise.all(this.#engines.map((engine) => engine.info()));
    const sum = (value: (info: EngineInfo) => number) =>
      infos.reduce((total, info) => total + value(info), 0);
    const names = (value: (info: EngineInfo) => string) => infos.map(value).join(",");
    return {
      pid: infos[0]?.pid ?? 0,
      device: names(({ device }) => device),
      provider: names(({ provider }) => provider),
      rssBytes: sum(({ rssBytes }) => rssBytes),
      restarts: sum(({ restarts }) => restarts),
      loaded: infos.flatMap(({ loaded }) => loaded),
      loraCache: {
        entries: sum(({ loraCache }) => loraCache.entries),
        bytes: sum(({ loraCache }) => loraCache.bytes),
      },
      overlays: {
        entries: sum(({ overlays }) => overlays.entries),
        bytes: sum(({ overlays }) => overlays.bytes),
      },
    };
  }

  async close(): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.close()));
  }
}
