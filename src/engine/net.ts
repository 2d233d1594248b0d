/** One loaded net, and what its kinds share on the way to a forward pass. */
import type { Checkpoint } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { Applied } from "../lora/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import type { AdapterFeeds } from "./adapter-feeds.ts";
import type { AdaptedNet } from "./lora-store.ts";
import type { RunItem } from "./port.ts";
import type { Compute, Feeds, InferenceSession, Runtime } from "./runtime.ts";

export type Net = AdaptedNet &
  Readonly<{
    checkpoint: Checkpoint;
    session: InferenceSession;
    /** The session's graph has the inputs of every feature. */
    isFull: boolean;
    runtime: Runtime;
    compute: Compute;
    adapterFeeds: AdapterFeeds;
  }>;

/** An item with the adapters that act on this net. */
export type PreparedItem = Readonly<{
  item: RunItem;
  applied: readonly Applied[];
  /** Layers whose whole weight it changes. */
  overlay?: Overlay;
}>;

/** New weights of some layers; the key names their content. */
export type Overlay = Readonly<{
  key: string;
  /** Names of the layers and the bytes of their weights in float32. */
  layers: ReadonlyMap<string, number>;
  /** Of all layers. */
  bytes: number;
  /** The weights, each computed when it is asked for. */
  weights: ReadonlyMap<string, () => Promise<Float32Array>>;
}>;

export type BatchResult = Readonly<{
  /** One map for each item. */
  outputs: readonly ReadonlyMap<string, FloatTensor>[];
  /** Time inside the session. */
  ms: number;
}>;

/** Adapter inputs where each of the item's `rows[i]` rows has the item's adapters. */
export function adapterFeedsOf(
  net: Net,
  items: readonly PreparedItem[],
  rows: readonly number[],
): Feeds {
  const perRow = items.flatMap(({ applied }, index) =>
    new Array<readonly Applied[]>(rows[index] ?? 0).fill(applied),
  );
  return net.adapterFeeds.feeds(net, perRow);
}

/** Refuses tensors that would be ignored: a misspelt control must not change pictures in silence. */
export function refuseUnknown(item: RunItem, isKnown: (name: string) => boolean): void {
  for (const name of item.tensors.keys()) {
    if (isKnown(name)) continue;
    throw new LunaError("TENSOR_MALFORMED", `The model takes no tensor "${name}".`);
  }
}
