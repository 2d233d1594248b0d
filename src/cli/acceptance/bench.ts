import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { PNG } from "pngjs";
import { type DaemonModel, type LunaClient, openModels } from "../../client/index.ts";
import { type Config, LunaError } from "../../kernel/index.ts";
import { type FloatTensor, floatTensor } from "../../tensor/index.ts";
import {
  engineFlags,
  type LunaProcess,
  modelFlags,
  startAndAwait,
  startLuna,
} from "../child-process.ts";
import { clientOptions } from "../daemon-client.ts";
import { serverUrl } from "../demo.ts";
import type { RunEvent, RunReport } from "../run-report.ts";

/** One line of the acceptance table. */
export type Outcome = Readonly<{
  test: string;
  expected: string;
  measured: string;
  isPassed: boolean;
}>;

const WORKFLOW = fileURLToPath(new URL("../../../examples/acceptance.json", import.meta.url));

export type InstanceRun = Readonly<{
  code: number;
  report?: RunReport;
  logs: string[];
  errors: string;
}>;

/** A real daemon and the instances that the tests start beside it. */
export class AcceptanceBench {
  readonly url: string;
  readonly daemon: LunaProcess;
  readonly out: string;
  /** Lines that the daemon has printed. */
  readonly daemonLines: string[];
  readonly #clients: LunaClient[] = [];
  readonly #config: Config;

  private constructor(facts: {
    url: string;
    daemon: LunaProcess;
    out: string;
    lines: string[];
    config: Config;
  }) {
    this.#config = facts.config;
    this.url = facts.url;
    this.daemon = facts.daemon;
    this.out = facts.out;
    this.daemonLines = facts.lines;
  }

  /** Model folders go to the daemon and to every instance, the device to the daemon. */
  static async start(config: Config): Promise<AcceptanceBench> {
    const lines: string[] = [];
    const { process: daemon, value: url } = await startAndAwait(
      ["serve", "--port", "0", "--socket", "off", ...modelFlags(config), ...engineFlags(config)],
      serverUrl,
      { onLine: (line) => void lines.push(line) },
    );
    const out = await mkdtemp(join(tmpdir(), "luna-acceptance-"));
    return new AcceptanceBench({ url, daemon, out, lines, config });
  }

  async connect(name: string): Promise<LunaClient> {
    const client = await openModels({
      mode: "force_daemon",
      ...clientOptions(this.#config, name),
      url: this.url,
    });
    this.#clients.push(client);
    return client;
  }

  /** The embedded model's UNet, as a proxy. */
  async model(client: LunaClient, name: string): Promise<DaemonModel> {
    const { model } = await client.registerModelByPath({ name });
    if (model === undefined) throw new LunaError("MODEL_UNKNOWN", `${name} has no UNet.`);
    return model;
  }

  /** `luna run` on the acceptance workflow in a process of its own. */
  async instance(name: string, sets: readonly string[], url = this.url): Promise<InstanceRun> {
    const logs: string[] = [];
    let report: RunReport | undefined;
    const args = ["run", WORKFLOW, "--daemon", url, "--out", join(this.out, name), "--events"];
    const luna = startLuna(
      [...args, ...modelFlags(this.#config), ...sets.flatMap((set) => ["--set", set])],
      (line) => {
        const event = JSON.parse(line) as RunEvent;
        if (event.type === "log") logs.push(event.line);
        if (event.type === "report") report = event.report;
      },
    );
    const code = await luna.exited;
    return { code, logs, errors: luna.errors(), ...(report ? { report } : {}) };
  }

  async close(): Promise<void> {
    for (const client of this.#clients) await client.close();
    await this.daemon.stop();
    await rm(this.out, { recursive: true, force: true });
  }
}

/** The same pseudo-random values (mulberry32, roughly uniform in -1.7..1.7) for the same seed. */
export function seeded(shape: readonly number[], seed: number): FloatTensor {
  const tensor = floatTensor(shape);
  let state = seed >>> 0;
  for (let i = 0; i < tensor.data.length; i++) {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    tensor.data[i] = (((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32 - 0.5) * 3.4;
  }
  return tensor;
}

/** The context of a prompt, [1, 77, contextDim]. */
export function contextOf({ info }: DaemonModel, seed: number): FloatTensor {
  return seeded([1, 77, info.unet?.contextDim ?? 768], seed);
}

/** One pass on fixed inputs. */
export function step(
  model: DaemonModel,
  seed = 1,
  context = contextOf(model, seed + 1),
): Promise<FloatTensor> {
  const x = seeded([1, model.info.unet?.inChannels ?? 4, 16, 16], seed);
  return model.forward({ x, timesteps: [500], context });
}

/** ||a - b|| / ||b|| */
export function relativeError(a: Float32Array, b: Float32Array): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += ((a[i] ?? 0) - (b[i] ?? 0)) ** 2;
    norm += (b[i] ?? 0) ** 2;
  }
  return Math.sqrt(difference / norm);
}

export function isBitEqual(a: FloatTensor, b: FloatTensor): boolean {
  return Buffer.from(a.data.buffer, a.data.byteOffset, a.data.byteLength).equals(
    Buffer.from(b.data.buffer, b.data.byteOffset, b.data.byteLength),
  );
}

/** Largest difference of any channel of any pixel, 0..255, over all pictures. */
export async function pictureDifference(
  ones: readonly string[],
  others: readonly string[],
): Promise<number> {
  if (ones.length !== others.length || ones.length === 0) return 255;
  let largest = 0;
  for (const [index, path] of ones.entries()) {
    const one = PNG.sync.read(await readFile(path)).data;
    const other = PNG.sync.read(await readFile(others[index] ?? "")).data;
    if (one.length !== other.length) return 255;
    one.forEach((value, at) => {
      largest = Math.max(largest, Math.abs(value - (other[at] ?? 0)));
    });
  }
  return largest;
}
