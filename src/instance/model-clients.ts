import {
  type DaemonMode,
  type LunaClient,
  type OpenModelsOptions,
  openModels,
} from "../client/index.ts";

/** The clients of one instance: one for each mode that its workflows ask for, opened when needed. */
export class ModelClients {
  readonly #options: Omit<OpenModelsOptions, "mode">;
  readonly #clients = new Map<DaemonMode, Promise<LunaClient>>();

  constructor(options: Omit<OpenModelsOptions, "mode">) {
    this.#options = options;
  }

  /** Throws DAEMON_NOT_RUNNING for force_daemon without one; the next call tries again. */
  open(mode: DaemonMode): Promise<LunaClient> {
    const known = this.#clients.get(mode);
    if (known) return known;
    const client = openModels({ ...this.#options, mode });
    this.#clients.set(mode, client);
    client.catch(() => this.#clients.delete(mode));
    return client;
  }

  /** Those that are open. */
  async opened(): Promise<LunaClient[]> {
    const settled = await Promise.allSettled(this.#clients.values());
    return settled.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  }

  /** Who computes here: the daemon, where one answers, and this process's own engine once it is open. */
  async reachable(): Promise<LunaClient[]> {
    await this.open("force_daemon").catch(() => undefined);
    const all = await this.opened();
    const daemon = all.find(({ isDaemon }) => isDaemon);
    return all.filter((client) => !client.isDaemon || client === daemon);
  }

  async close(): Promise<void> {
    for (const client of await this.opened()) await client.close();
    this.#clients.clear();
  }
}
