/**
 * A daemon with real sessions, queue, sockets and registry, whose nets are arithmetic: a UNet step
 * is out = x * (1 + sum of LoRA strengths). Runs can be held back, to see what gathers meanwhile.
 */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Checkpoint } from "../../src/checkpoint/index.ts";
import type { ComponentName, Engine, RunItem, RunOutput } from "../../src/engine/index.ts";
import { LunaError } from "../../src/kernel/index.ts";
import { ModelRegistry, modelFolders } from "../../src/registry/index.ts";
import {
  createDaemonCore,
  type DaemonCore,
  type DaemonListenOptions,
  type DaemonOptions,
  type ListeningDaemon,
  listenDaemon,
} from "../../src/server/index.ts";
import { fromFloat, type Tensor, toFloat } from "../../src/tensor/index.ts";

export const TEST_MODEL = "checkpoints/test.safetensors";
const BROKEN_LORA = "broken.safetensors";

/** As narrow as the limits allow; nothing reads its weights. */
export const TEST_CHECKPOINT: Checkpoint = {
  family: "sd1",
  prediction: "eps",
  isZeroTerminalSnr: false,
  latentScale: 0.18215,
  dtype: "F32",
  unet: {
    weights: new Map(),
    config: {
      ...{ inChannels: 4, outChannels: 4, modelChannels: 32, channelMult: [1], resBlocks: [1] },
      ...{ transformerDepth: [1], transformerDepthMiddle: 1, transformerDepthOutput: [1, 1] },
      ...{ contextDim: 8, admChannels: 0, heads: { count: 8 }, isLinearProjection: false },
    },
  },
  textEncoders: [
    {
      weights: new Map(),
      config: {
        ...{ kind: "clip-l", width: 8, layers: 3, heads: 1, vocabulary: 49408, positions: 77 },
        ...{ activation: "quick_gelu", projection: 0 },
      },
    },
  ],
  vae: {
    weights: new Map(),
    config: {
      ...{ kind: "kl", latentChannels: 4, imageChannels: 3, downscale: 8, widths: [32] },
      ...{ resBlocks: 1, hasEncoder: true, hasDecoder: true },
    },
  },
};

export type TestRun = Readonly<{ component: ComponentName; items: readonly RunItem[] }>;

export interface TestEngine extends Engine {
  readonly runs: readonly TestRun[];
  /** Runs wait from now on, until `release`. */
  hold(): void;
  release(): void;
  /** Resolves when that many runs have begun. */
  begun(count: number): Promise<void>;
}

export function createTestEngine(): TestEngine {
  const runs: TestRun[] = [];
  const loaded = new Map<string, { path: string; component: ComponentName; bytes: number }>();
  const watchers: { count: number; resolve: () => void }[] = [];
  let gate: Promise<void> = Promise.resolve();
  let open = (): void => undefined;
  return {
    runs,
    hold() {
      gate = new Promise((resolve) => {
        open = resolve;
      });
    },
    release: () => open(),
    begun: (count) =>
      new Promise((resolve) => {
        if (runs.length >= count) resolve();
        else watchers.push({ count, resolve });
      }),
    async load(path, component) {
      loaded.set(`${component} ${path}`, { path, component, bytes: 1000 });
      return { bytes: 1000, ms: 1 };
    },
    async unload(path, component) {
      for (const [key, net] of loaded) {
        if (net.path === path && (component ?? net.component) === net.component) loaded.delete(key);
      }
    },
    async run(_path, component, items) {
      runs.push({ component, items });
      for (const { count, resolve } of watchers) if (runs.length >= count) resolve();
      await gate;
      const startedAtMs = performance.now();
      const outputs = items.map((item) => compute(component, item));
      return { outputs, engineMs: performance.now() - startedAtMs };
    },
    async info() {
      const device = { pid: process.pid, device: "test", provider: "test", rssBytes: 1 };
      const cache = { entries: 0, bytes: 0 };
      return { ...device, restarts: 0, loaded: [...loaded.values()], loraCache: cache };
    },
    close: async () => undefined,
  };
}

function compute(component: ComponentName, { tensors, loras }: RunItem): RunOutput {
  for (const { source } of loras) {
    if (source.type === "file" && source.name === BROKEN_LORA) {
      throw new LunaError("LORA_MALFORMED", `${source.name} is broken.`);
    }
  }
  const factor = loras.reduce((sum, { strength }) => sum + strength, 1);
  if (component === "unet") return output({ out: scaled(tensors.get("x"), factor) });
  if (component === "vae-decoder") {
    const { shape } = toFloat(need(tensors.get("latent")));
    const [rows = 0, , height = 0, width = 0] = shape;
    return output({ image: zeros([rows, 3, height * 8, width * 8]) });
  }
  if (component === "vae-encoder") {
    const { shape } = toFloat(need(tensors.get("image")));
    const [rows = 0, , height = 0, width = 0] = shape;
    return output({ latent: zeros([rows, 4, height / 8, width / 8]) });
  }
  const [rows = 0] = need(tensors.get("tokens")).shape;
  const hidden = scaled(zeros([rows, 77, 8], 1), factor);
  return output({ hidden, pooled: zeros([rows, 8]) });
}

const output = (tensors: Record<string, Tensor>): RunOutput => ({
  tensors: new Map(Object.entries(tensors)),
  warnings: [],
});

function need(tensor: Tensor | undefined): Tensor {
  if (tensor) return tensor;
  throw new Error("The server let a run through without its tensor.");
}

function zeros(shape: readonly number[], value = 0): Tensor {
  const count = shape.reduce((product, axis) => product * axis, 1);
  return fromFloat({ shape, data: new Float32Array(count).fill(value) });
}

function scaled(tensor: Tensor | undefined, factor: number): Tensor {
  const { shape, data } = toFloat(need(tensor));
  return fromFloat({ shape, data: data.map((value) => value * factor) });
}

export type TestDaemon = Readonly<{
  core: DaemonCore;
  engine: TestEngine;
  /** The models folder, with checkpoints/test.safetensors and some LoRAs. */
  folder: string;
  listen: (options?: DaemonListenOptions) => Promise<ListeningDaemon>;
  close: () => Promise<void>;
}>;

/** A core with its own folder of (empty) models; `listen` puts it on a free port. */
export async function createTestDaemon(options: Partial<DaemonOptions> = {}): Promise<TestDaemon> {
  const folder = await mkdtemp(join(tmpdir(), "luna-test-"));
  const uploadFolder = join(folder, "diffusion_models");
  for (const name of ["checkpoints", "loras", "embeddings", "diffusion_models"]) {
    await mkdir(join(folder, name));
  }
  await writeFile(join(folder, TEST_MODEL), "test");
  for (const name of ["red.safetensors", "blue.safetensors", BROKEN_LORA]) {
    await writeFile(join(folder, "loras", name), "test");
  }
  const engine = createTestEngine();
  const openCheckpoint = async () => TEST_CHECKPOINT;
  const folders = modelFolders([folder]);
  const registry = new ModelRegistry({ folders, loader: engine, openCheckpoint, bytesMax: 1e9 });
  const core = createDaemonCore({ registry, engine, version: "0.0.0", uploadFolder, ...options });
  const daemons: ListeningDaemon[] = [];
  return {
    core,
    engine,
    folder,
    async listen(where = {}) {
      const daemon = await listenDaemon(core, { port: 0, ...where });
      daemons.push(daemon);
      return daemon;
    },
    async close() {
      engine.release();
      core.close();
      for (const daemon of daemons) await daemon.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
