/**
 * The engine as the daemon holds it: a child process that may die at any time. A forward pass is
 * a pure function, so after a crash the process is started again, everything that was loaded is
 * loaded again, and the interrupted request runs again; its caller only sees a delay. A request
 * that takes the process down twice is given up, the others go on.
 */
import { type Logger, LunaError, SILENT_LOGGER } from "../kernel/index.ts";
import { ChildExited, type EngineChild, type Reply, startEngineChild } from "./engine-child.ts";
import {
  CLOSE_MS_MAX,
  HANG_MS_DEFAULT,
  JOB_CRASHES_MAX,
  JOB_KILLS_MAX,
  KNOWN_DIGESTS_MAX,
  LORA_CACHE_BYTES_DEFAULT,
  REQUEST_MS_MAX,
  RESTART_WINDOW_MS,
  RESTARTS_MAX,
} from "./limits.ts";
import {
  type ChildOptions,
  decodeOutputs,
  encodeItems,
  type Request,
  type Tensors,
} from "./messages.ts";
import { PoisonList } from "./poison-list.ts";
import type { ComponentName, Engine, EngineInfo, RunItem, RunOutput } from "./port.ts";
import { type DeviceChoice, type ProviderName, providerNamed } from "./providers.ts";
import { RunClock } from "./run-clock.ts";

export type EngineOptions = Readonly<{
  device?: DeviceChoice;
  /** Threads inside an operator; 0 takes the physical cores. */
  threads?: number;
  /** Bytes of parsed LoRAs kept in the engine. */
  loraCacheBytesMax?: number;
  /** No run counts as hung before so many ms. */
  hangMs?: number;
  /** Which of several devices of a kind, from 0; CUDA only. */
  deviceIndex?: number;
  logger?: Logger;
}>;

/** Seams for tests: how a child is started, and the time. */
export type SupervisorDependencies = Readonly<{
  startChild: (options: ChildOptions, logger: Logger) => Promise<EngineChild>;
  nowMs: () => number;
}>;

type NetName = Readonly<{ path: string; component: ComponentName }>;
type Net = NetName & Readonly<{ bytes: number }>;
type Attempt = Readonly<{
  net?: NetName;
  /** After so many ms without an answer the process is killed. */
  limitMs?: number;
  crashesMax?: number;
}>;
type Encode = (child: EngineChild) => { request: Request; tensors?: Tensors };

const netKey = (path: string, component: ComponentName): string => `${component}\n${path}`;

/**
 * Starts an engine process on the device that was asked for. Throws DEVICE_UNAVAILABLE with the
 * reason when it cannot be used.
 */
export async function startEngine(options: EngineOptions = {}): Promise<SupervisedEngine> {
  const engine = new SupervisedEngine(options, {
    startChild: startEngineChild,
    nowMs: () => performance.now(),
  });
  await engine.start();
  return engine;
}

export class SupervisedEngine implements Engine {
  #options: ChildOptions;
  #device: ProviderName = "cpu";
  readonly #logger: Logger;
  readonly #dependencies: SupervisorDependencies;
  readonly #nets = new Map<string, Net>();
  /** Nets that could not be loaded again after a crash. */
  readonly #lost = new Set<string>();
  /** How often loading a net again has ended the process. */
  readonly #reloadCrashes = new Map<string, number>();
  readonly #poison = new PoisonList();
  readonly #clock: RunClock;
  #child: EngineChild | undefined;
  /** Ends when the request that came last has ended: one at a time reaches the process. */
  #tail: Promise<unknown> = Promise.resolve();
  #restartTimes: number[] = [];
  #restarts = 0;
  #isBusy = false;
  #closing: Promise<void> | undefined;

  constructor(options: EngineOptions, dependencies: SupervisorDependencies) {
    const { device = "auto", threads = 0, loraCacheBytesMax = LORA_CACHE_BYTES_DEFAULT } = options;
    const { deviceIndex, hangMs = HANG_MS_DEFAULT } = options;
    this.#options = {
      ...{ device, loraCacheBytesMax },
      ...(threads === 0 ? {} : { threads }),
      ...(deviceIndex === undefined ? {} : { deviceIndex }),
    };
    this.#clock = new RunClock(hangMs);
    this.#logger = options.logger ?? SILENT_LOGGER;
    this.#dependencies = dependencies;
  }

  /** Starts the first process. */
  async start(): Promise<void> {
    const { pid, chosen } = await this.#startChild().catch(async (error: unknown) => {
      // A driver that takes the process down while `auto` tries it must not keep the CPU from serving.
      const isTrial = this.#options.device === "auto" && LunaError.isCode(error, "ENGINE_CRASHED");
      if (!isTrial) throw error;
      this.#logger.warn("device.crashed", { message: error.message });
      this.#options = { ...this.#options, device: "cpu" };
      return await this.#startChild();
    });
    // Chosen once: after a crash the same device serves, or results would change.
    this.#options = { ...this.#options, chosen };
    this.#device = chosen.name;
    this.#logger.info("engine.started", { pid, device: chosen.name });
  }

  load(path: string, component: ComponentName): Promise<{ bytes: number; ms: number }> {
    return this.#serially(async () => {
      const { result } = await this.#attempt(() => ({
        request: { type: "load", path, component },
      }));
      if (result.type !== "load") throw unexpected(result.type);
      const { bytes, ms } = result;
      this.#nets.set(netKey(path, component), { path, component, bytes });
      this.#lost.delete(netKey(path, component));
      return { bytes, ms };
    });
  }

  unload(path: string, component?: ComponentName): Promise<void> {
    return this.#serially(async () => {
      // Forgotten first: a crash on the way must not bring it back.
      for (const [key, net] of this.#nets) {
        if (net.path !== path) continue;
        if (component === undefined || component === net.component) this.#nets.delete(key);
      }
      for (const key of this.#lost) if (key.endsWith(`\n${path}`)) this.#lost.delete(key);
      const fields = component === undefined ? { path } : { path, component };
      await this.#attempt(() => ({ request: { type: "unload", ...fields } }));
    });
  }

  run(
    path: string,
    component: ComponentName,
    items: readonly RunItem[],
  ): Promise<{ outputs: readonly RunOutput[]; engineMs: number }> {
    return this.#serially(async () => {
      const encode: Encode = (child) => {
        if (child.knownDigests.size > KNOWN_DIGESTS_MAX) child.knownDigests.clear();
        const isKnown = (digest: string) => child.knownDigests.has(digest);
        const { tensors, ...encoded } = encodeItems(items, isKnown);
        for (const digest of [...encoded.factors, ...encoded.shared]) {
          child.knownDigests.add(digest);
        }
        return { request: { type: "run", path, component, ...encoded }, tensors };
      };
      const { result, tensors } = await this.#attemptRun(encode, { path, component }, items);
      if (result.type !== "run") throw unexpected(result.type);
      return { outputs: decodeOutputs(result.outputs, tensors), engineMs: result.engineMs };
    });
  }

  async info(): Promise<EngineInfo> {
    // A process inside a forward pass cannot answer: what it last said is fresh enough.
    if (!this.#isBusy && this.#closing === undefined) {
      const ask = () => this.#attempt(() => ({ request: { type: "info" } }));
      await this.#serially(ask).catch(() => undefined); // What is known stands, even if it is down.
    }
    const child = this.#child;
    return {
      pid: child?.pid ?? 0,
      device: this.#device,
      provider: providerNamed(this.#device).title,
      rssBytes: child?.facts.rssBytes ?? 0,
      loraCache: child?.facts.loraCache ?? { entries: 0, bytes: 0 },
      restarts: this.#restarts,
      loaded: [...this.#nets.values()],
    };
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#child?.close(CLOSE_MS_MAX);
      await this.#tail;
    })();
    return this.#closing;
  }

  #serially<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(async () => {
      this.#isBusy = true;
      try {
        return await task();
      } finally {
        this.#isBusy = false;
      }
    });
    this.#tail = result.catch(() => undefined);
    return result;
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) {
      throw new LunaError("SHUTTING_DOWN", "The engine is shutting down.");
    }
  }

  /** As `attempt`; a run that ends the process again and again is refused from then on. */
  async #attemptRun(encode: Encode, net: NetName, items: readonly RunItem[]): Promise<Reply> {
    const key = netKey(net.path, net.component);
    this.#poison.check(key, items);
    const limitMs = this.#clock.limitMs(key, items);
    const crashesMax = this.#poison.crashesMax(key, items);
    try {
      const reply = await this.#attempt(encode, { net, limitMs, crashesMax });
      if (reply.result.type === "run") this.#clock.record(key, items, reply.result.engineMs);
      this.#poison.clear(key, items);
      this.#restartTimes = [];
      return reply;
    } catch (error) {
      const isGivenUp = error instanceof LunaError && error.cause instanceof ChildExited;
      throw isGivenUp ? this.#poison.blame(key, items, error) : error;
    }
  }

  /** Sends a request until it is answered, through crashes and forgotten factors. */
  async #attempt(
    encode: Encode,
    { net, limitMs = REQUEST_MS_MAX, crashesMax = JOB_CRASHES_MAX }: Attempt = {},
  ): Promise<Reply> {
    for (let crashes = 0, kills = 0; ; ) {
      const child = await this.#livingChild();
      const { request, tensors } = encode(child);
      let isHung = false;
      const timer = setTimeout(() => {
        isHung = true;
        this.#logger.error("engine.hung", { pid: child.pid, request: request.type, limitMs });
        child.kill();
      }, limitMs);
      try {
        if (net !== undefined) await this.#recover(child, net);
        return await this.#requestOnce(child, request, tensors, encode);
      } catch (error) {
        this.#assertOpen();
        if (!(error instanceof ChildExited)) throw error;
        this.#forget(child);
        if (error.isKill && !isHung) kills += 1;
        else crashes += 1;
        if (crashes < crashesMax && kills < JOB_KILLS_MAX) continue;
        throw new LunaError(
          "ENGINE_CRASHED",
          `The engine ended ${crashes + kills} times during this ${request.type} (${error.message}); it is not tried again.`,
          { cause: error },
        );
      } finally {
        clearTimeout(timer);
      }
    }
  }

  async #requestOnce(
    child: EngineChild,
    request: Request,
    tensors: Tensors | undefined,
    encode: Encode,
  ): Promise<Reply> {
    try {
      return await child.request(request, tensors);
    } catch (error) {
      if (!LunaError.isCode(error, "TENSOR_UNKNOWN")) throw error;
      // Its bounded cache has dropped factors that were sent before: all of them go again.
      child.knownDigests.clear();
      const again = encode(child);
      return await child.request(again.request, again.tensors);
    }
  }

  async #livingChild(): Promise<EngineChild> {
    for (;;) {
      this.#assertOpen();
      if (this.#child !== undefined) return this.#child;
      const child = await this.#restart();
      if (await this.#reload(child)) return child;
    }
  }

  async #restart(): Promise<EngineChild> {
    for (;;) {
      const now = this.#dependencies.nowMs();
      this.#restartTimes = this.#restartTimes.filter((time) => now - time < RESTART_WINDOW_MS);
      if (this.#restartTimes.length >= RESTARTS_MAX) {
        throw new LunaError(
          "ENGINE_CRASHED",
          `The engine ended ${RESTARTS_MAX} times within ${RESTART_WINDOW_MS / 1000} s; see the log for the reason, and try again in a minute.`,
        );
      }
      this.#restartTimes.push(now);
      this.#restarts += 1;
      try {
        const child = await this.#startChild();
        this.#logger.info("engine.restarted", { pid: child.pid, restarts: this.#restarts });
        return child;
      } catch (error) {
        // It may be killed while it starts, too.
        if (!LunaError.isCode(error, "ENGINE_CRASHED")) throw error;
        this.#logger.error("engine.start-failed", { message: error.message });
      }
    }
  }

  async #startChild(): Promise<EngineChild> {
    const child = await this.#dependencies.startChild(this.#options, this.#logger);
    if (this.#closing !== undefined) {
      await child.close(CLOSE_MS_MAX);
      this.#assertOpen();
    }
    this.#child = child;
    void child.exited.then((reason) => this.#onExit(child, reason));
    return child;
  }

  #onExit(child: EngineChild, reason: string): void {
    this.#forget(child);
    if (this.#closing !== undefined) return;
    this.#logger.error("engine.crashed", { pid: child.pid, reason });
    // At once, not at the next request, so that this finds everything loaded.
    this.#serially(() => this.#livingChild()).catch((error: unknown) => {
      this.#logger.error("engine.restart-failed", { message: LunaError.from(error).message });
    });
  }

  #forget(child: EngineChild): void {
    if (this.#child === child) this.#child = undefined;
  }

  /** Loads again what was loaded; false if the process ended meanwhile. */
  async #reload(child: EngineChild): Promise<boolean> {
    for (const [key, { path, component }] of this.#nets) {
      try {
        await child.request({ type: "load", path, component });
        this.#reloadCrashes.delete(key);
      } catch (error) {
        this.#lose(key, error);
        if (!(error instanceof ChildExited)) continue;
        this.#forget(child);
        return false;
      }
    }
    return true;
  }

  /** A net that could not be loaded after a crash gets another chance when it is needed. */
  async #recover(child: EngineChild, { path, component }: NetName): Promise<void> {
    const key = netKey(path, component);
    if (!this.#lost.has(key)) return;
    const { result } = await child.request({ type: "load", path, component });
    if (result.type !== "load") throw unexpected(result.type);
    this.#nets.set(key, { path, component, bytes: result.bytes });
    this.#lost.delete(key);
  }

  /** Gives a net up for which loading again failed, or ended the process twice. */
  #lose(key: string, error: unknown): void {
    const crashes = (this.#reloadCrashes.get(key) ?? 0) + 1;
    this.#reloadCrashes.set(key, crashes);
    if (error instanceof ChildExited && crashes < JOB_CRASHES_MAX) return;
    const reason =
      error instanceof ChildExited
        ? new LunaError("ENGINE_CRASHED", `Loading ended the engine ${crashes} times.`)
        : LunaError.from(error);
    this.#nets.delete(key);
    this.#reloadCrashes.delete(key);
    this.#lost.add(key);
    this.#logger.error("engine.reload-failed", { net: key, message: reason.message });
  }
}

function unexpected(type: string): LunaError {
  return new LunaError("INTERNAL", `The engine answered with "${type}".`);
}
