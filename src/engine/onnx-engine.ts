/** The engine inside its process: sessions of ONNX Runtime over checkpoints that stay on disk. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type ComponentName, openCheckpointFile, type WeightTable } from "../checkpoint/index.ts";
import type { GraphOptions } from "../graph/index.ts";
import { type Logger, LunaError } from "../kernel/index.ts";
import { type ApplyChange, type LoraModel, needsFullGraph } from "../lora/index.ts";
import { elementCount } from "../tensor/index.ts";
import { AdapterFeeds } from "./adapter-feeds.ts";
import { baseWeights, fileKeyOf } from "./base-weights.ts";
import { buildGraph, buildLoraModel, weightsOf } from "./build-graph.ts";
import { ByteBudget } from "./byte-budget.ts";
import { HINT_FEATURES_BYTES_MAX } from "./limits.ts";
import { type LoraReader, readHere } from "./lora-reader.ts";
import { LoraStore } from "./lora-store.ts";
import type { ChildFacts } from "./messages.ts";
import {
  afterCreate,
  afterRelease,
  placeWeights,
  readRange,
  WEIGHTS_NAME,
  type WeightsPlace,
} from "./model-folder.ts";
import type { BatchResult, Net, PreparedItem } from "./net.ts";
import type { RunItem, RunOutput } from "./port.ts";
import type { Provider } from "./providers.ts";
import type { FileSource } from "./ready-loras.ts";
import { ControlRunner, type ControlSession } from "./run-control.ts";
import { runText } from "./run-text.ts";
import { runUNet } from "./run-unet.ts";
import { runVae } from "./run-vae.ts";
import { type Runtime, runtimeError, toTensor } from "./runtime.ts";
import { overlaidWeights, SessionSet, type Variant } from "./session-set.ts";
import { SharedTensors } from "./shared-tensors.ts";
import { hasFeatures } from "./unet-features.ts";
import { weightChanger } from "./weight-changer.ts";

export type OnnxEngineOptions = Readonly<{
  runtime: Runtime;
  provider: Provider;
  threads?: number;
  loraCacheBytesMax: number;
  /** Of loaded nets and their overlays together. */
  memoryBytesMax?: number;
  logger: Logger;
  /** In the thread that asks if not given. */
  loraReader?: LoraReader;
  /** For tests. */
  place?: (path: string) => Promise<WeightsPlace>;
}>;

type Loaded = Readonly<{
  path: string;
  net: LoadedNet;
  bytes: number;
  place: WeightsPlace;
  sessions: SessionSet;
}>;

/** A net without the session that a batch runs in. */
type LoadedNet = Omit<Net, "session" | "isFull">;

export class OnnxEngine {
  readonly #options: OnnxEngineOptions;
  readonly #loraBudget: ByteBudget;
  readonly #overlayBudget: ByteBudget;
  readonly #loras: LoraStore;
  readonly sharedTensors = new SharedTensors();
  readonly #adapterFeeds: AdapterFeeds;
  readonly #applyChange: ApplyChange;
  readonly #controls: ControlRunner;
  readonly #loaded = new Map<string, Loaded>();

  constructor(options: OnnxEngineOptions) {
    const { runtime, provider, loraCacheBytesMax, logger } = options;
    const { memoryBytesMax = Number.POSITIVE_INFINITY } = options;
    this.#options = options;
    this.#loraBudget = new ByteBudget(loraCacheBytesMax);
    this.#overlayBudget = new ByteBudget(() => memoryBytesMax - this.#netBytes());
    this.#loras = new LoraStore(this.#loraBudget, options.loraReader ?? readHere, logger);
    this.#applyChange = weightChanger(runtime);
    this.#adapterFeeds = new AdapterFeeds(runtime, provider.choices, this.#loraBudget);
    this.#controls = new ControlRunner({
      ...{ runtime, compute: provider.choices.compute, bytesMax: HINT_FEATURES_BYTES_MAX },
      open: (path, component) => this.#openControl(path, component),
    });
  }

  get loras(): LoraStore {
    return this.#loras;
  }

  get facts(): ChildFacts {
    const [loraCache, overlays] = [this.#loraBudget.facts, this.#overlayBudget.facts];
    const forgottenLoras = this.#loras.takeForgotten();
    return { rssBytes: process.memoryUsage.rss(), loraCache, overlays, forgottenLoras };
  }

  /** Reads an adapter file ahead of its first use by a net. Throws what is wrong with it. */
  async prepare(path: string, component: ComponentName, source: FileSource): Promise<void> {
    const loaded = this.#loaded.get(keyOf(path, component));
    if (loaded !== undefined) await this.#loras.prepare(loaded.net, source);
  }

  #netBytes(): number {
    return [...this.#loaded.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async load(path: string, component: ComponentName): Promise<{ bytes: number; ms: number }> {
    const key = keyOf(path, component);
    const known = this.#loaded.get(key);
    if (known !== undefined) return { bytes: known.bytes, ms: 0 };
    const begin = performance.now();
    const loaded = await this.#openSomewhere(path, component);
    this.#loaded.set(key, loaded);
    this.#overlayBudget.startRun(); // Overlays make room.
    const ms = Math.round(performance.now() - begin);
    const { bytes, place } = loaded;
    const weights = place.type === "linked" ? `linked ${place.where}` : "read into memory";
    this.#options.logger.info("net.opened", { path, component, bytes, ms, weights });
    return { bytes, ms };
  }

  async unload(path: string, component?: ComponentName): Promise<void> {
    for (const [key, { path: own, net, place, sessions }] of this.#loaded) {
      if (own !== path || (component !== undefined && net.component !== component)) continue;
      this.#loaded.delete(key);
      this.#adapterFeeds.forget(net.key);
      this.#controls.forget(net.key);
      await sessions.release();
      await afterRelease(place);
    }
  }

  async run(
    path: string,
    component: ComponentName,
    items: readonly RunItem[],
  ): Promise<{ outputs: readonly RunOutput[]; engineMs: number }> {
    const { net, sessions } = this.#loadedNet(path, component);
    this.#loraBudget.startRun();
    const prepared: PreparedItem[] = [];
    const warnings: string[][] = [];
    for (const item of items) {
      const { warnings: own, ...stack } = await this.#loras.apply(net, item.loras);
      prepared.push({ item, ...stack });
      warnings.push(own);
    }
    const open = async (variant: Variant) => {
      this.#overlayBudget.startRun();
      return await sessions.get(variant);
    };
    const { outputs, ms } = await runGroups(prepared, {
      open,
      run: (variant, group) => runNet({ ...net, ...variant }, group, this.#controls),
    });
    return {
      outputs: outputs.map((tensors, index) => ({
        tensors: new Map(Array.from(tensors, ([name, tensor]) => [name, toTensor(tensor)])),
        warnings: warnings[index] ?? [],
      })),
      engineMs: ms,
    };
  }

  #loadedNet(path: string, component: ComponentName): Loaded {
    const loaded = this.#loaded.get(keyOf(path, component));
    if (loaded !== undefined) return loaded;
    throw new LunaError("MODEL_UNKNOWN", `${component} of ${path} is not loaded.`);
  }

  async #openControl(path: string, component: ComponentName): Promise<ControlSession> {
    const { net, sessions } = this.#loadedNet(path, component);
    const config = net.checkpoint.control?.config;
    if (config === undefined) throw new LunaError("MODEL_UNKNOWN", `${path} is no control net.`);
    const { session } = await sessions.get({ isFull: false });
    return { key: net.key, config, session };
  }

  /** On a full disk, where not even the graph has room, in memory. */
  async #openSomewhere(path: string, component: ComponentName): Promise<Loaded> {
    let place = await (this.#options.place ?? placeWeights)(path);
    for (;;) {
      try {
        const loaded = await this.#open(path, component, place);
        await afterCreate(place);
        return loaded;
      } catch (cause) {
        await afterRelease(place);
        const error = runtimeError(cause, `Opening ${component} of ${path}`);
        if (error.code !== "DISK_FULL" || place.type === "memory") throw error;
        this.#options.logger.warn("disk.full", { path, message: error.message });
        place = { type: "memory" };
      }
    }
  }

  async #open(path: string, component: ComponentName, place: WeightsPlace): Promise<Loaded> {
    const { runtime, provider } = this.#options;
    // Header and weights come from the same linked file, whatever becomes of its path meanwhile.
    const file = place.type === "linked" ? join(place.folder, WEIGHTS_NAME) : path;
    const checkpoint = await openCheckpointFile(file, path);
    const stored = weightsOf(checkpoint, component);
    const { weights, range } = place.type === "linked" ? { weights: stored } : rebase(stored);
    const bytes = range && (await readRange(path, range.begin, range.end));
    const { choices } = provider;
    const options = { choices, externalFile: WEIGHTS_NAME };
    const names = await netNames(file, path, component);
    const sessions = new SessionSet({
      ...this.#options,
      build: (variant) =>
        buildGraph(checkpoint, component, {
          ...{ ...options, isFull: variant.isFull },
          weights: overlaidWeights(weights, variant.overlay),
        }),
      weights: bytes,
      path,
      place: this.#options.place ?? placeWeights,
      overlayBudget: this.#overlayBudget,
      fileKey: names.fileKey,
    });
    const graph = await sessions.open(place);
    const net: LoadedNet = {
      ...names,
      ...{ component, targets: graph.adapterTargets, norms: graph.normTargets, checkpoint },
      ...{ runtime, compute: choices.compute, adapterFeeds: this.#adapterFeeds },
      applyChange: this.#applyChange,
      baseWeight: baseWeights(path, stored, names.fileKey),
      loraModel: lazily(() =>
        buildLoraModel(checkpoint, options, {
          component,
          targets: [...graph.adapterTargets, ...graph.normTargets],
        }),
      ),
    };
    return { path, net, bytes: residentBytes(stored, choices), place, sessions };
  }
}

/**
 * One session run for all items, except that items with an overlay have a session of their own: they
 * run after the others.
 */
async function runGroups<Session>(
  items: readonly PreparedItem[],
  net: Readonly<{
    open: (variant: Variant) => Promise<Session>;
    run: (session: Session, items: readonly PreparedItem[]) => Promise<BatchResult>;
  }>,
): Promise<BatchResult> {
  const groups = new Map<string, number[]>();
  // By adapters, so that the same ones find what is joined of them, whoever came first.
  const order = items.map(({ applied }, index) => ({
    index,
    ids: applied.map(({ id }) => id).join(),
  }));
  for (const { index } of order.sort((a, b) => (a.ids < b.ids ? -1 : Number(a.ids > b.ids)))) {
    const key = items[index]?.overlay?.key ?? "";
    groups.set(key, [...(groups.get(key) ?? []), index]);
  }
  const outputs: BatchResult["outputs"][number][] = [];
  let ms = 0;
  for (const indices of groups.values()) {
    const group = indices.flatMap((index) => items[index] ?? []);
    const overlay = group[0]?.overlay;
    const isFull = group.some(({ item, applied }) => hasFeatures(item) || needsFullGraph(applied));
    const session = await net.open({ isFull, ...(overlay && { overlay }) });
    const result = await net.run(session, group);
    ms += result.ms;
    for (const [at, index] of indices.entries()) {
      const output = result.outputs[at];
      assert(output !== undefined, "Every item has an output.");
      outputs[index] = output;
    }
  }
  return { outputs, ms };
}

async function runNet(
  net: Net,
  items: readonly PreparedItem[],
  controls: ControlRunner,
): Promise<BatchResult> {
  switch (net.component) {
    case "unet":
      return runUNet(net, items, controls);
    case "control-hint":
    case "control-net":
      throw new LunaError("REQUEST_INVALID", "A control net runs as a part of a UNet's step.");
    case "vae-encoder":
    case "vae-decoder":
      return runVae(net, items);
    default:
      return runText(net, items);
  }
}

const keyOf = (path: string, component: ComponentName): string => `${component}\n${path}`;

/** Names for caches: a file that was replaced and opened again is another one. */
async function netNames(
  file: string,
  path: string,
  component: ComponentName,
): Promise<{ fileKey: string; key: string }> {
  const fileKey = await fileKeyOf(file, path);
  return { fileKey, key: `${component}\n${fileKey}` };
}

function lazily(build: () => LoraModel): () => LoraModel {
  let model: LoraModel | undefined;
  return () => {
    model ??= build();
    return model;
  };
}

/** The part of the file that holds the weights, and their offsets in that part. */
function rebase(weights: WeightTable): {
  weights: WeightTable;
  range: { begin: number; end: number };
} {
  let begin = Number.POSITIVE_INFINITY;
  let end = 0;
  for (const ref of weights.values()) {
    begin = Math.min(begin, ref.begin);
    end = Math.max(end, ref.end);
  }
  const moved = Array.from(weights, ([name, ref]) => {
    return [name, { ...ref, begin: ref.begin - begin, end: ref.end - begin }] as const;
  });
  return { weights: new Map(moved), range: { begin, end } };
}

/** Weights of the compute type stay mapped; others are converted once, into private memory. */
function residentBytes(weights: WeightTable, { compute }: GraphOptions["choices"]): number {
  const [dtype, width] = compute === "float32" ? (["F32", 4] as const) : (["F16", 2] as const);
  let bytes = 0;
  for (const ref of weights.values()) {
    bytes += ref.dtype === dtype ? ref.end - ref.begin : elementCount(ref.shape) * width;
  }
  return bytes;
}
