/**
 * A daemon with real sessions, queue, sockets and registry, whose nets are those of FakeEngine.
 * Runs can be held back, to see what gathers meanwhile.
 */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Checkpoint } from "../../src/checkpoint/index.ts";
import type { ComponentName, Engine, RunItem } from "../../src/engine/index.ts";
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
import { FakeEngine } from "./fake-engine.ts";

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
  const engine = new FakeEngine();
  const runs: TestRun[] = [];
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
    load: (path, component) => engine.load(path, component),
    unload: (path, component) => engine.unload(path, component),
    async run(path, component, items) {
      runs.push({ component, items });
      for (const { count, resolve } of watchers) if (runs.length >= count) resolve();
      await gate;
      refuseBroken(items);
      const startedAtMs = performance.now();
      const { outputs } = await engine.run(path, component, items);
      return { outputs, engineMs: performance.now() - startedAtMs };
    },
    info: () => engine.info(),
    close: () => engine.close(),
  };
}

/** One broken LoRA fails the whole run, as in the real engine. */
function refuseBroken(items: readonly RunItem[]): void {
  for (const { source } of items.flatMap(({ loras }) => loras)) {
    if (source.type === "file" && source.name === BROKEN_LORA) {
      throw new LunaError("LORA_MALFORMED", `${source.name} is broken.`);
    }
  }
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
  const core = createDaemonCore({
    ...{ registry, engine, version: "0.0.0", uploadFolder },
    // Fixed: arithmetic is no device whose speed could be measured.
    batchRows: 16,
    ...options,
  });
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
