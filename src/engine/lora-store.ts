/**
 * Adapters in the engine: files read, parsed and kept by path, size and mtime; factors that
 * clients have sent, kept by digest; stacks that had to be folded. All within one byte budget.
 */
import { LRUCache } from "lru-cache";
import type { ComponentName } from "../checkpoint/index.ts";
import type { AdapterTarget } from "../graph/index.ts";
import { type Logger, LunaError } from "../kernel/index.ts";
import {
  type Applied,
  type ApplyChange,
  factorsFromTensors,
  foldStack,
  isAdditive,
  type LoraModel,
  type ParsedLora,
  type Patches,
  type StackItem,
} from "../lora/index.ts";
import { type ByteBudget, ByteCache } from "./byte-budget.ts";
import { ANNOUNCED_MAX } from "./limits.ts";
import type { LoraReader } from "./lora-reader.ts";
import type { KeptByDigest, Tensors } from "./messages.ts";
import type { Overlay } from "./net.ts";
import type { LoraUse } from "./port.ts";
import { type FileSource, fileKey } from "./ready-loras.ts";

/** The net that adapters are for. */
export type AdaptedNet = Readonly<{
  /** Names the file and net: parsed adapters depend on both. */
  key: string;
  component: ComponentName;
  targets: readonly AdapterTarget[];
  norms: readonly AdapterTarget[];
  /** A layer's weight as the checkpoint has it, [outputs, inputs * kernel]. */
  baseWeight: (layer: string) => Promise<Float32Array>;
  /** A weight with a low-rank change in it. */
  applyChange: ApplyChange;
  /** All nets of the file, to tell its own keys from unknown ones. */
  loraModel: () => LoraModel;
  /** Names the file alone. */
  fileKey: string;
}>;

const NO_PATCHES: Patches = new Map();

/** A stack as one net uses it. */
type Stack = Readonly<{ applied: readonly Applied[]; overlay?: Overlay }>;

export class LoraStore implements KeptByDigest<Tensors> {
  readonly #budget: ByteBudget;
  readonly #read: LoraReader;
  readonly #logger: Logger;
  /** Files under way, by the key they are kept under. */
  readonly #reading = new Map<string, Promise<ParsedLora | undefined>>();
  /** Files whose warnings somebody has heard. */
  readonly #told = new WeakSet<ParsedLora>();
  #forgotten: string[] = [];
  readonly #parsed: ByteCache<ParsedLora>;
  readonly #sent: ByteCache<Tensors>;
  /** Factors of sent tensors by net; they are views, so they live as long as the tensors. */
  readonly #views = new WeakMap<Tensors, Map<string, Patches>>();
  /** Stacks that are more than a sum, by net, adapters and strengths. */
  readonly #folded: ByteCache<Stack>;
  readonly #announced = new LRUCache<string, true>({ max: ANNOUNCED_MAX });

  constructor(budget: ByteBudget, read: LoraReader, logger: Logger) {
    this.#budget = budget;
    this.#read = read;
    this.#logger = logger;
    this.#parsed = new ByteCache(
      budget,
      ({ bytes }) => bytes,
      (_, key) => this.#forgotten.push(key.split("\n", 2).join("\n")),
    );
    this.#sent = new ByteCache(budget, bytesOf);
    this.#folded = new ByteCache(budget, bytesOfStack);
  }

  keep(digest: string, factors: Tensors): void {
    this.#sent.set(digest, factors);
  }

  recall(digest: string): Tensors {
    const known = this.#sent.get(digest);
    if (known !== undefined) return known;
    throw new LunaError("TENSOR_UNKNOWN", `The LoRA factors ${digest} are not kept any more.`, {
      details: { digests: [digest] },
    });
  }

  /** What a stack of LoRAs does to one net, and what its user should hear about it. */
  async apply(net: AdaptedNet, loras: readonly LoraUse[]): Promise<Stack & { warnings: string[] }> {
    const stack: StackItem[] = [];
    const warnings: string[] = [];
    for (const { source, strength } of loras) {
      if (source.type === "factors") {
        const patches = this.#patchesOf(net, source.tensors);
        stack.push({ id: source.digest, strength, patches });
        continue;
      }
      const patches = await this.#filePatches(net, source, warnings);
      if (patches === undefined) continue;
      stack.push({ id: `${source.path}@${source.key}`, strength, patches });
      this.#announce(net, source, strength);
    }
    return { ...(await this.#fold(net, stack)), warnings };
  }

  async #fold(net: AdaptedNet, stack: readonly StackItem[]): Promise<Stack> {
    if (stack.every(({ patches }) => isAdditive(patches))) {
      return { applied: stack.map(({ patches: factors, ...rest }) => ({ ...rest, factors })) };
    }
    const key = JSON.stringify([net.key, stack.map(({ id, strength }) => [id, strength])]);
    const known = this.#folded.get(key);
    if (known !== undefined) return known;
    const targets = new Map([...net.targets, ...net.norms].map((each) => [each.name, each]));
    const target = (layer: string) => targets.get(layer);
    const { applied, dense } = await foldStack(stack, {
      ...{ target, weight: net.baseWeight, apply: net.applyChange },
    });
    const folded: Stack =
      dense.size === 0 ? { applied } : { applied, overlay: overlayOf(key, dense, targets) };
    this.#folded.set(key, folded);
    return folded;
  }

  #patchesOf(net: AdaptedNet, tensors: Tensors): Patches {
    const byNet = this.#views.get(tensors) ?? new Map<string, Patches>();
    this.#views.set(tensors, byNet);
    const targets = [...net.targets, ...net.norms];
    const patches = byNet.get(net.key) ?? factorsFromTensors(tensors, targets);
    byNet.set(net.key, patches);
    return patches;
  }

  async #filePatches(
    net: AdaptedNet,
    source: FileSource,
    warnings: string[],
  ): Promise<Patches | undefined> {
    const parsed = await this.#parse(net, source);
    if (parsed === undefined) {
      warnings.push(`LoRA '${source.name}' is not there any more: skipped.`);
      return undefined;
    }
    if (!this.#told.has(parsed)) {
      this.#told.add(parsed);
      warnings.push(...this.#warningsOf(source, parsed));
    }
    const { component } = net;
    if (component === "unet") return parsed.unet;
    return [...parsed.text].find(([kind]) => kind === component)?.[1] ?? NO_PATCHES;
  }

  /** Files that had to go since this was asked last, as `fileKey` names them. */
  takeForgotten(): readonly string[] {
    const forgotten = this.#forgotten;
    this.#forgotten = [];
    return forgotten;
  }

  /** Reads a file ahead of its first use. Throws what is wrong with it. */
  async prepare(net: AdaptedNet, source: FileSource): Promise<void> {
    await this.#parse(net, source);
  }

  /** Undefined if the file has gone. Whoever asks while it is read waits for the same. */
  async #parse(net: AdaptedNet, source: FileSource): Promise<ParsedLora | undefined> {
    const key = `${fileKey(source)}\n${net.fileKey}`;
    const known = this.#parsed.get(key) ?? this.#reading.get(key);
    if (known !== undefined) return await known;
    const begin = performance.now();
    const model = { key: net.fileKey, model: net.loraModel };
    const reading = this.#read(source.path, model)
      .then((parsed) => {
        if (parsed === undefined) return undefined;
        this.#parsed.set(key, parsed);
        const { format, bytes } = parsed;
        const ms = Math.round(performance.now() - begin);
        this.#logger.info("lora.parsed", { lora: source.name, format, bytes, ms });
        return parsed;
      })
      .catch((error: unknown) => {
        throw named(source, error);
      })
      .finally(() => this.#reading.delete(key));
    this.#reading.set(key, reading);
    return await reading;
  }

  #warningsOf({ name }: FileSource, { bytes, unmatchedKeys }: ParsedLora): string[] {
    const warnings: string[] = [];
    if (bytes > this.#budget.bytesMax) {
      // It would be read again at each step, so somebody should hear.
      this.#logger.warn("lora.not-kept", { lora: name, bytes });
      warnings.push(
        `LoRA '${name}' takes ${bytes} bytes, more than loraCacheMiB allows to keep: each step reads it again.`,
      );
    }
    if (unmatchedKeys.length > 0) {
      warnings.push(
        `LoRA '${name}': ${unmatchedKeys.length} keys fit no layer of the model, for example "${unmatchedKeys[0]}".`,
      );
    }
    return warnings;
  }

  /** Once for each strength, not at every step. */
  #announce(net: AdaptedNet, { name, path, key }: FileSource, strength: number): void {
    const announcement = `${net.key}\n${path}\n${key}\n${strength}`;
    if (this.#announced.has(announcement)) return;
    this.#announced.set(announcement, true);
    this.#logger.info("lora.applied", { lora: name, strength, component: net.component });
  }
}

function overlayOf(
  key: string,
  weights: ReadonlyMap<string, () => Promise<Float32Array>>,
  targets: ReadonlyMap<string, AdapterTarget>,
): Overlay {
  const layers = new Map<string, number>();
  for (const layer of weights.keys()) {
    const { inputs = 0, outputs = 0, kernel = [1, 1] } = targets.get(layer) ?? {};
    layers.set(layer, 4 * inputs * outputs * kernel[0] * kernel[1]);
  }
  const bytes = [...layers.values()].reduce((sum, each) => sum + each, 0);
  return { key, layers, bytes, weights };
}

/** What the factors keep in memory: those of a file are views of few pieces. */
function bytesOfStack({ applied }: Stack): number {
  const layers = applied.flatMap(({ factors }) => [...factors.values()]);
  const buffers = new Set(layers.flatMap(({ up, down }) => [up.buffer, down.buffer]));
  return [...buffers].reduce((sum, { byteLength }) => sum + byteLength, 0);
}

function bytesOf(tensors: Tensors): number {
  let bytes = 0;
  for (const tensor of tensors.values()) bytes += tensor.bytes.byteLength;
  return bytes;
}

/** The same error with the file's name; a file that is no safetensors is a malformed LoRA. */
function named({ name }: FileSource, cause: unknown): LunaError {
  const error = LunaError.from(cause);
  const code = error.code === "TENSOR_MALFORMED" ? "LORA_MALFORMED" : error.code;
  return new LunaError(code, `LoRA '${name}': ${error.message}`, { cause });
}
