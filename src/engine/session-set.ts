/**
 * The sessions of one net: the lean one it is loaded with and, when first needed, one with every
 * feature's inputs, and one for each overlay. On the CPU they share the mapped weights and cost
 * little beside each other. On other devices a session is a copy of the weights: there the full
 * session takes the lean one's place and serves everything from then on.
 */
import { open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { WeightTable } from "../checkpoint/index.ts";
import type { BuiltGraph } from "../graph/index.ts";
import { type Logger, LunaError } from "../kernel/index.ts";
import { expectUnchanged } from "./base-weights.ts";
import { type ByteBudget, ByteCache } from "./byte-budget.ts";
import { afterCreate, afterRelease, type WeightsPlace } from "./model-folder.ts";
import type { Overlay } from "./net.ts";
import type { Provider } from "./providers.ts";
import { type InferenceSession, type Runtime, runtimeError } from "./runtime.ts";

export type Variant = Readonly<{ isFull: boolean; overlay?: Overlay }>;

type Opened = Readonly<{
  session: InferenceSession;
  isFull: boolean;
  place: WeightsPlace;
  overlayBytes: number;
  /** ONNX Runtime reads weights given from memory in place and keeps no reference to them. */
  data?: Uint8Array;
}>;

export type SessionSetOptions = Readonly<{
  runtime: Runtime;
  provider: Provider;
  threads?: number;
  logger: Logger;
  build: (variant: Variant) => BuiltGraph;
  /** The weights, where they were read into memory. */
  weights: Uint8Array | undefined;
  path: string;
  fileKey: string;
  place: (path: string) => Promise<WeightsPlace>;
  /** Bytes of the overlays of all nets: what the nets themselves leave of the memory for models. */
  overlayBudget: ByteBudget;
}>;

/** Name of an overlay's weights beside the checkpoint's. */
const OVERLAY_NAME = "overlay";

export class SessionSet {
  readonly #options: SessionSetOptions;
  #lean: Opened | undefined;
  #full: Opened | undefined;
  readonly #overlays: ByteCache<Opened>;

  constructor(options: SessionSetOptions) {
    this.#options = options;
    this.#overlays = new ByteCache(
      options.overlayBudget,
      ({ overlayBytes }) => overlayBytes,
      (opened) => void this.#close(opened).catch(() => undefined),
    );
  }

  /** Opens the lean session over weights that are in place. */
  async open(place: WeightsPlace): Promise<BuiltGraph> {
    const variant = { isFull: false };
    const graph = this.#options.build(variant);
    this.#lean = await this.#create(graph, place, variant);
    return graph;
  }

  /**
   * The session for a variant, opened now if need be. Throws MEMORY_EXCEEDED, LIMIT_EXCEEDED,
   * FILE_UNREADABLE.
   */
  async get(variant: Variant): Promise<Pick<Opened, "session" | "isFull">> {
    const { overlay, isFull } = variant;
    if (overlay !== undefined) return this.#getOverlay(overlay, isFull);
    const known = isFull ? this.#full : (this.#lean ?? this.#full);
    if (known !== undefined) return known;
    if (this.#options.provider.name !== "cpu" && this.#lean !== undefined) {
      const lean = this.#lean;
      this.#lean = undefined;
      await this.#close(lean);
    }
    this.#full = await this.#openLater({ isFull: true });
    return this.#full;
  }

  async release(): Promise<void> {
    for (const key of this.#overlays.keys()) this.#overlays.delete(key);
    for (const opened of [this.#lean, this.#full]) {
      if (opened !== undefined) await this.#close(opened);
    }
  }

  async #getOverlay(overlay: Overlay, isFull: boolean): Promise<Opened> {
    const key = `${isFull} ${overlay.key}`;
    const known = this.#overlays.get(key);
    if (known !== undefined) return known;
    expectRoom(overlay, this.#options);
    const opened = await this.#openLater({ isFull, overlay });
    this.#overlays.set(key, opened);
    return opened;
  }

  /** Beside the first session: the file must still be the one that was loaded. */
  async #openLater(variant: Variant): Promise<Opened> {
    const { path, fileKey, weights, logger } = this.#options;
    const begin = performance.now();
    const place: WeightsPlace =
      weights === undefined ? await this.#options.place(path) : { type: "memory" };
    if (weights === undefined && place.type === "memory") {
      const message = `There is no room for a folder of a session of ${path}: make room, or load the model again.`;
      throw new LunaError("DISK_FULL", message);
    }
    try {
      if (weights === undefined) await expectUnchanged(path, fileKey);
      const opened = await this.#create(this.#options.build(variant), place, variant);
      await afterCreate(place);
      const ms = Math.round(performance.now() - begin);
      const { isFull, overlay } = variant;
      logger.info("net.variant-opened", {
        path,
        isFull,
        overlayBytes: overlay?.bytes ?? 0,
        ms,
      });
      return opened;
    } catch (error) {
      await afterRelease(place);
      throw runtimeError(error, `Opening a session of ${path}`);
    }
  }

  async #create(graph: BuiltGraph, place: WeightsPlace, variant: Variant): Promise<Opened> {
    const { runtime, provider, threads, weights } = this.#options;
    const { isFull, overlay } = variant;
    // Data from memory and from files cannot be mixed in one session.
    const data = weights && overlay && (await joinWeights(overlay));
    const externalData = [
      ...(weights === undefined ? [] : [{ path: graph.externalFile, data: weights }]),
      ...(data === undefined ? [] : [{ path: OVERLAY_NAME, data }]),
    ];
    const options: InferenceSession.SessionOptions = {
      ...provider.sessionOptions,
      ...(threads === undefined ? {} : { intraOpNumThreads: threads }),
      ...(externalData.length === 0 ? {} : { externalData }),
    };
    const opened = { isFull, place, overlayBytes: overlay?.bytes ?? 0, ...(data && { data }) };
    if (place.type === "linked") {
      const path = join(place.folder, "graph.onnx");
      await writeFile(path, graph.model);
      if (overlay !== undefined) await writeWeights(join(place.folder, OVERLAY_NAME), overlay);
      return { ...opened, session: await runtime.InferenceSession.create(path, options) };
    }
    return { ...opened, session: await runtime.InferenceSession.create(graph.model, options) };
  }

  async #close({ session, place }: Opened): Promise<void> {
    await session.release();
    await afterRelease(place);
  }
}

/**
 * Throws MEMORY_EXCEEDED for an overlay that does not fit beside the loaded nets (without idle ones it
 * may), LIMIT_EXCEEDED where there is no memory for overlays at all.
 */
function expectRoom(
  { bytes }: Overlay,
  { overlayBudget, provider }: Pick<SessionSetOptions, "overlayBudget" | "provider">,
): void {
  const what = `The LoRA changes whole weights of ${bytes} bytes`;
  if (provider.name !== "cpu") {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `${what}, which ${provider.name} does not serve: merge the LoRA into a checkpoint.`,
    );
  }
  if (bytes <= overlayBudget.bytesMax) return;
  throw new LunaError(
    "MEMORY_EXCEEDED",
    `${what}; the loaded models leave ${Math.max(0, overlayBudget.bytesMax)} of memoryMiB: raise it, ` +
      "unload a model, or merge the LoRA into a checkpoint.",
  );
}

async function writeWeights(path: string, { weights }: Overlay): Promise<void> {
  const file = await open(path, "w");
  try {
    for (const weight of weights.values()) await file.writeFile(bytesOf(await weight()));
  } finally {
    await file.close();
  }
}

async function joinWeights({ bytes, weights }: Overlay): Promise<Uint8Array> {
  const data = new Uint8Array(bytes);
  let begin = 0;
  for (const weight of weights.values()) {
    const own = bytesOf(await weight());
    data.set(own, begin);
    begin += own.byteLength;
  }
  return data;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** The table of a graph that takes an overlay's layers from the overlay, in float32. */
export function overlaidWeights(weights: WeightTable, overlay: Overlay | undefined): WeightTable {
  if (overlay === undefined) return weights;
  const result = new Map(weights);
  let begin = 0;
  for (const [layer, byteLength] of overlay.layers) {
    const name = `${layer}.weight`;
    const shape = weights.get(name)?.shape ?? [];
    result.set(name, { dtype: "F32", shape, begin, end: begin + byteLength, file: OVERLAY_NAME });
    begin += byteLength;
  }
  return result;
}
