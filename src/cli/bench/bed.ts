/** What the suites share: a folder of models, daemons as processes of their own, clients, figures. */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { join } from "node:path";
import type { UNetConfig } from "../../checkpoint/index.ts";
import { type DaemonModel, type LunaClient, openModels } from "../../client/index.ts";
import { LunaError } from "../../kernel/index.ts";
import type { FloatTensor } from "../../tensor/index.ts";
import { VERSION } from "../../version.ts";
import { seeded } from "../acceptance/bench.ts";
import { type LunaProcess, startAndAwait } from "../child-process.ts";
import { serverUrl } from "../demo.ts";
import { quantile } from "../table.ts";
import { writeUnet } from "./models.ts";

/** Figures of one suite, by name; a goal is what the figure should not exceed, or reach. */
export type Figures = Readonly<Record<string, number | string | object>>;

export type BenchDaemon = Readonly<{
  url: string;
  socketUrl: string;
  pid: number;
  process: LunaProcess;
  stop: () => Promise<void>;
}>;

const QUICK_SHARE = 0.05;

export type Step = Readonly<{ side: number; rows?: number; seed?: number }>;

export class BenchBed {
  readonly folder: string;
  readonly note: (line: string) => void;
  readonly signal: AbortSignal;
  readonly #share: number;
  readonly #engineFlags: readonly string[];
  readonly #owned: { close: () => Promise<unknown> }[] = [];
  readonly #written = new Set<string>();

  private constructor(folder: string, options: BedOptions) {
    this.folder = folder;
    this.note = options.note;
    this.signal = options.signal;
    this.#share = options.isQuick ? QUICK_SHARE : 1;
    this.#engineFlags = options.engineFlags;
  }

  static async open(options: BedOptions): Promise<BenchBed> {
    const folder = await mkdtemp(join(tmpdir(), "luna-bench-"));
    for (const kind of ["diffusion_models", "loras"]) await mkdir(join(folder, kind));
    return new BenchBed(folder, options);
  }

  /** Closes something with everything else. */
  own(owned: { close: () => Promise<unknown> }): void {
    this.#owned.push(owned);
  }

  /** Threads for each of several programs that share the machine. */
  threadsEach(programs: number): number {
    return Math.max(1, Math.floor(availableParallelism() / programs));
  }

  /** So many steps or ms as a full measurement takes; a quick one takes a part. */
  amount(full: number): number {
    return Math.max(1, Math.ceil(full * this.#share));
  }

  /** Writes a model of that shape unless it is there; its name. */
  async unet(name: string, config: UNetConfig): Promise<string> {
    const path = join(this.folder, "diffusion_models", `${name}.safetensors`);
    if (!this.#written.has(name)) await writeUnet(path, config);
    this.#written.add(name);
    return `diffusion_models/${name}.safetensors`;
  }

  async daemon(flags: readonly string[] = []): Promise<BenchDaemon> {
    this.signal.throwIfAborted();
    const socket = join(this.folder, `${this.#owned.length}.sock`);
    const own = ["--port", "0", "--socket", socket, "--models", this.folder];
    const { process, value: url } = await startAndAwait(
      ["serve", ...own, ...this.#engineFlags, ...flags],
      serverUrl,
    );
    this.#owned.push({ close: process.stop });
    const pid = process.child.pid ?? 0;
    return { url, socketUrl: `ws+unix:${socket}:/v1/ws`, pid, process, stop: process.stop };
  }

  async client(url: string, name = "bench"): Promise<LunaClient> {
    const identity = { name, version: VERSION };
    const client = await openModels({ mode: "force_daemon", url, client: identity });
    this.#owned.push(client);
    return client;
  }

  /** A client of its own and its proxy of `model`. */
  async model(url: string, model: string, name?: string): Promise<DaemonModel> {
    const opened = await (await this.client(url, name)).registerModelByPath({ name: model });
    if (opened.model) return opened.model;
    throw new LunaError("MODEL_UNKNOWN", `${model} has no UNet.`);
  }

  async close(): Promise<void> {
    for (const each of this.#owned.reverse()) await each.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}

type BedOptions = Readonly<{
  /** Shows that everything runs, and no figure to quote. */
  isQuick: boolean;
  note: (line: string) => void;
  signal: AbortSignal;
  engineFlags: readonly string[];
}>;

/** Inputs of a step for a model; the context is the same tensor at every step, as in a sampler. */
export function stepInputs({ info }: DaemonModel, { side, rows = 1, seed = 1 }: Step) {
  const { inChannels = 4, contextDim = 768, admChannels = 0 } = info.unet ?? {};
  const y: FloatTensor | undefined = admChannels ? seeded([rows, admChannels], seed) : undefined;
  return {
    x: seeded([rows, inChannels, side, side], seed),
    timesteps: new Float32Array(rows).fill(500),
    context: seeded([rows, 77, contextDim], seed + 1),
    ...(y ? { y } : {}),
  };
}

/** Milliseconds of `count` steps, one after another. */
export async function timeSteps(
  model: DaemonModel,
  step: Step,
  { count, warmUp = 0 }: { count: number; warmUp?: number },
): Promise<number[]> {
  const inputs = stepInputs(model, step);
  const times: number[] = [];
  for (let n = -warmUp; n < count; n++) {
    const beginMs = performance.now();
    await model.forward(inputs);
    if (n >= 0) times.push(performance.now() - beginMs);
  }
  return times;
}

/** Steps a second of all models together, each stepping as fast as it is answered, for `ms`. */
export async function rateOf(
  models: readonly DaemonModel[],
  step: Step,
  ms: number,
): Promise<number> {
  let steps = 0;
  const beginMs = performance.now();
  await Promise.all(
    models.map(async (model, index) => {
      const inputs = stepInputs(model, { ...step, seed: index + 1 });
      while (performance.now() - beginMs < ms) {
        await model.forward(inputs);
        steps++;
      }
    }),
  );
  return steps / ((performance.now() - beginMs) / 1000);
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);
export const round = (value: number, digits = 3): number => Number(value.toFixed(digits));

export const machine = (): Figures => ({
  cpu: cpus()[0]?.model.trim() ?? "unknown",
  cores: cpus().length,
  node: process.version,
});
