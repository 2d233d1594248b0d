/**
 * The engine as the daemon holds it: a child process that may die at any time. A forward pass is
 * a pure function, so after a crash the process is started again, everything that was loaded is
 * loaded again, and the interrupted request runs again; its caller only sees a delay. A request
 * that takes the process down twice is given up, the others go on.
 */
import { type Logger, LunaError, SILENT_LOGGER } from "../kernel/index.ts";
import { fileKeyOf } from "./base-weights.ts";
import {
  ChildExited,
  type EngineChild,
  NO_FACTS,
  type Reply,
  startEngineChild,
} from "./engine-child.ts";
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
import { LoadedNets, type NetName, netKey, netsOf } from "./loaded-nets.ts";
import {
  type ChildOptions,
  decodeOutputs,
  encodeItems,
  type Request,
  type Tensors,
} from "./messages.ts";
import { PoisonList } from "./poison-list.ts";
import type {
  ComponentName,
  Engine,
  EngineInfo,
  EngineOptions,
  LoraUse,
  RunItem,
  RunOutput,
} from "./port.ts";
import { type ProviderName, providerNamed } from "./providers.ts";
import { RunClock } from "./run-clock.ts";

/** Seams for tests: how a child is started, and the time. */
export type SupervisorDependencies = Readonly<{
  startChild: (options: ChildOptions, logger: Logger) => Promise<EngineChild>;
  nowMs: () => number;
}>;

type Attempt = Readonly<{
  /** Must be loaded; those that a crash has cost get another chance. */
  nets?: readonly NetName[];
  /** After so many ms without an answer the process is killed. */
  limitMs?: number;
  crashesMax?: number;
}>;
type Encoded = Readonly<{ request: Request; tensors?: Tensors }>;
type Encode = (child: EngineChild) => Encoded;

/** What a load has in place of items. */
const LOAD: readonly RunItem[] = [{ tensors: new Map(), loras: [] }];

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
  readonly #nets = new LoadedNets();
  readonly #poison = new PoisonList();
  readonly #clock: RunClock;
  /** For what takes no time: an engine that does not answer so long is hung. */
  readonly #hangMs: number;
  #child: EngineChild | undefined;
  /** Ends when the request that came last has ended: one at a time reaches the process. */
  #tail: Promise<unknown> = Promise.resolve();
  #restartTimes: number[] = [];
  #restarts = 0;
  #isBusy = false;
  #closing: Promise<void> | undefined;

  constructor(options: EngineOptions, dependencies: SupervisorDependencies) {
    const { device = "auto", threads = 0, loraCacheBytesMax = LORA_CACHE_BYTES_DEFAULT } = options;
    const { deviceIndex, hangMs = HANG_MS_DEFAULT, memoryBytesMax } = options;
    this.#options = {
      ...{ device, loraCacheBytesMax },
      ...(threads === 0 ? {} : { threads }),
      ...(memoryBytesMax === undefined ? {} : { memoryBytesMax }),
      ...(deviceIndex === undefined ? {} : { deviceIndex }),
    };
    this.#hangMs = hangMs;
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
      // By the file's content: one that was repaired is another.
      const key = `load ${component}\n${await fileKeyOf(path, path).catch(() => path)}`;
      const request = { type: "load", path, component } as const;
      const { result } = await this.#guard(key, LOAD, (crashesMax) =>
        this.#attempt(() => ({ request }), { crashesMax }),
      );
      if (result.type !== "load") throw unexpected(result.type);
      const { bytes, ms } = result;
      this.#nets.add({ path, component, bytes });
      return { bytes, ms };
    });
  }

  unload(path: string, component?: ComponentName): Promise<void> {
    return this.#serially(async () => {
      // Forgotten first: a crash on the way must not bring it back.
      this.#nets.remove(path, component);
      const fields = component === undefined ? { path } : { path, component };
      const limitMs = this.#hangMs;
      await this.#attempt(() => ({ request: { type: "unload", ...fields } }), { limitMs });
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

  async prepare(path: string, component: ComponentName, loras: readonly LoraUse[]): Promise<void> {
    await this.#child?.readyLoras.readAhead(path, loras, (sources) =>
      this.#serially(() =>
        this.#attempt(() => ({ request: { type: "prepare", path, component, sources } })),
      ),
    );
  }

  async info(): Promise<EngineInfo> {
    // A process inside a forward pass cannot answer: what it last said is fresh enough.
    if (!this.#isBusy && this.#closing === undefined) {
      const limitMs = this.#hangMs;
      const ask = () => this.#attempt(() => ({ request: { type: "info" } }), { limitMs });
      await this.#serially(ask).catch(() => undefined); // What is known stands, even if it is down.
    }
    return {
      pid: this.#child?.pid ?? 0,
      device: this.#device,
      provider: providerNamed(this.#device).title,
      ...(this.#child?.facts ?? NO_FACTS),
      restarts: this.#restarts,
      loaded: this.#nets.list(),
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

  async #attemptRun(encode: Encode, net: NetName, items: readonly RunItem[]): Promise<Reply> {
    const key = netKey(net);
    const limitMs = this.#clock.limitMs(key, items);
    const reply = await this.#guard(key, items, (crashesMax) =>
      this.#attempt(encode, { nets: netsOf(net, items), limitMs, crashesMax }),
    );
    if (reply.result.type === "run") this.#clock.record(key, items, reply.result.engineMs);
    this.#restartTimes = [];
    return reply;
  }

  /** What ends the process again and again is refused from then on. */
  async #guard(
    key: string,
    items: readonly RunItem[],
    attempt: (crashesMax: number) => Promise<Reply>,
  ): Promise<Reply> {
    this.#poison.check(key, items);
    try {
      const reply = await attempt(this.#poison.crashesMax(key, items));
      this.#poison.clear(key, items);
      return reply;
    } catch (error) {
      if (!(error instanceof LunaError && error.cause instanceof ChildExited)) throw error;
      // The system, short of memory, may have room for the same file later.
      if (items === LOAD && error.cause.isKill) throw error;
      throw this.#poison.blame(key, items, error);
    }
  }

  /** Sends a request until it is answered, through crashes and forgotten tensors. */
  async #attempt(
    encode: Encode,
    { nets = [], limitMs = REQUEST_MS_MAX, crashesMax = JOB_CRASHES_MAX }: Attempt = {},
  ): Promise<Reply> {
    for (let crashes = 0, kills = 0; ; ) {
      const child = await this.#livingChild();
      const encoded = encode(child);
      try {
        for (const net of nets) if (this.#nets.isLost(net)) await this.#load(child, net);
        return await this.#askOrRepeat(child, encoded, { encode, limitMs });
      } catch (error) {
        this.#assertOpen();
        if (!(error instanceof ChildExited)) throw error;
        this.#forget(child);
        if (error.isKill) kills += 1;
        else crashes += 1;
        if (crashes < crashesMax && kills < JOB_KILLS_MAX) continue;
        throw new LunaError(
          "ENGINE_CRASHED",
          `The engine ended ${crashes + kills} times during this ${encoded.request.type} (${error.message}); it is not tried again.`,
          { cause: error },
        );
      }
    }
  }

  /** Its bounded cache may have dropped what was sent before: then all of it goes again. */
  async #askOrRepeat(
    child: EngineChild,
    encoded: Encoded,
    { encode, limitMs }: { encode: Encode; limitMs: number },
  ): Promise<Reply> {
    try {
      return await this.#ask(child, encoded, limitMs);
    } catch (error) {
      if (!LunaError.isCode(error, "TENSOR_UNKNOWN")) throw error;
      child.knownDigests.clear();
      return await this.#ask(child, encode(child), limitMs);
    }
  }

  /** One request; a process that does not answer in time is killed. */
  async #ask(child: EngineChild, { request, tensors }: Encoded, limitMs: number): Promise<Reply> {
    const timer = setTimeout(() => {
      this.#logger.error("engine.hung", { pid: child.pid, request: request.type, limitMs });
      child.kill(`no answer within ${limitMs} ms`);
    }, limitMs);
    try {
      return await child.request(request, tensors);
    } finally {
      clearTimeout(timer);
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
    for (const net of this.#nets.list()) {
      try {
        await this.#load(child, net);
      } catch (error) {
        const reason = this.#nets.giveUp(net, error);
        if (reason !== undefined) {
          const { message } = reason;
          this.#logger.error("engine.reload-failed", { net: netKey(net), message });
        }
        if (!(error instanceof ChildExited)) continue;
        this.#forget(child);
        return false;
      }
    }
    return true;
  }

  /** Again after a crash; what could not be gets another chance when it is needed. */
  async #load(child: EngineChild, { path, component }: NetName): Promise<void> {
    const request = { type: "load", path, component } as const;
    const { result } = await this.#ask(child, { request }, REQUEST_MS_MAX);
    if (result.type !== "load") throw unexpected(result.type);
    this.#nets.add({ path, component, bytes: result.bytes });
  }
}

function unexpected(type: string): LunaError {
  return new LunaError("INTERNAL", `The engine answered with "${type}".`);
}
