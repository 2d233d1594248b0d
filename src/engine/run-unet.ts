import type { UNetConfig } from "../checkpoint/index.ts";
import { timestepEmbedding } from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import { type FloatTensor, toFloat } from "../tensor/index.ts";
import {
  concatRows,
  controlRows,
  expandRows,
  floatOf,
  NO_CONTROL,
  repeatToCommonLength,
  rowsOf,
  sliceRows,
  tensorOf,
} from "./batch.ts";
import {
  adapterFeedsOf,
  type BatchResult,
  type Net,
  type PreparedItem,
  refuseUnknown,
} from "./net.ts";
import type { RunItem } from "./port.ts";
import type { ControlRunner } from "./run-control.ts";
import { runSession, toOrt } from "./runtime.ts";
import { featureFeeds } from "./unet-features.ts";

const isControl = (name: string): boolean => name.startsWith("control.");

export type UNetFeeds = Readonly<{
  feeds: ReadonlyMap<string, FloatTensor>;
  /** Batch rows of each item. */
  rows: readonly number[];
  /** Of each batch row. */
  timesteps: Float32Array;
}>;

/**
 * The inputs of the UNet graph for a batch, adapters aside; of the graph's `controls` those that
 * some item has. The sinusoid of the timesteps is computed here.
 */
export function unetFeeds(
  config: UNetConfig,
  items: readonly RunItem[],
  controls: ReadonlySet<string>,
): UNetFeeds {
  const names = config.admChannels > 0 ? ["x", "context", "y"] : ["x", "context"];
  const used = new Set<string>();
  const rows = items.map((item) => {
    refuseUnknown(item, (name) => {
      if (controls.has(name)) used.add(name);
      const isHint = item.controls?.some(({ slot }) => slot === name) === true;
      return isHint || controls.has(name) || names.includes(name) || name === "timesteps";
    });
    return rowsOf(tensorOf(item, "x"));
  });
  const expanded = (name: string): FloatTensor[] =>
    items.map((item, index) => expandRows(floatOf(item, name), rows[index] ?? 0, name));
  const joined = (name: string): FloatTensor =>
    concatRows(name === "context" ? repeatToCommonLength(expanded(name)) : expanded(name), name);
  const feeds = new Map(names.map((name) => [name, joined(name)]));
  const timesteps = joined("timesteps");
  feeds.set("timestep_embedding", embed(timesteps, config.modelChannels));
  for (const name of used) {
    const parts = items.map((item) => {
      const tensor = item.tensors.get(name);
      return tensor && toFloat(tensor);
    });
    feeds.set(name, controlRows(parts, rows, name));
  }
  return { feeds, rows, timesteps: timesteps.data };
}

function embed({ shape, data }: FloatTensor, channels: number): FloatTensor {
  if (shape.length === 1) {
    return { shape: [data.length, channels], data: timestepEmbedding(data, channels) };
  }
  throw new LunaError("TENSOR_MALFORMED", `"timesteps" has ${shape.length} axes, not 1.`);
}

/** Control nets of the items run first; their residuals go from session to session. */
export async function runUNet(
  net: Net,
  items: readonly PreparedItem[],
  controlRunner: ControlRunner,
): Promise<BatchResult> {
  const config = net.checkpoint.unet?.config;
  if (config === undefined) throw new LunaError("MODEL_UNKNOWN", "The checkpoint has no UNet.");
  const controls = new Set(net.session.inputNames.filter(isControl));
  const requests = items.map(({ item }) => item);
  const batch = unetFeeds(config, requests, controls);
  const { feeds, rows } = batch;
  const inputs = adapterFeedsOf(net, items, rows);
  const zero = toOrt(net.runtime, NO_CONTROL, net.compute);
  for (const name of controls) inputs[name] = zero;
  const features = net.isFull
    ? featureFeeds(net.session.inputNames, requests, { rows, size: sizeOf(feeds) })
    : NO_FEATURES;
  for (const [name, tensor] of [...feeds, ...features]) {
    inputs[name] = toOrt(net.runtime, tensor, net.compute);
  }
  const control = await controlRunner.run(requests, batch);
  for (const [name, residual] of control.residuals) {
    if (!controls.has(name)) throw new LunaError("TENSOR_MALFORMED", `The UNet has no "${name}".`);
    inputs[name] = residual;
  }
  const { outputs, ms } = await runSession(net.session, inputs);
  return { outputs: splitRows(outputs, rows), ms: ms + control.ms };
}

const NO_FEATURES: ReadonlyMap<string, FloatTensor> = new Map();

function sizeOf(feeds: ReadonlyMap<string, FloatTensor>): readonly [number, number] {
  const [, , height = 0, width = 0] = feeds.get("x")?.shape ?? [];
  return [height, width];
}

/** Each item's rows of every output, as views. */
export function splitRows(
  outputs: ReadonlyMap<string, FloatTensor>,
  rows: readonly number[],
): ReadonlyMap<string, FloatTensor>[] {
  let begin = 0;
  return rows.map((count) => {
    const own = Array.from(outputs, ([name, tensor]): [string, FloatTensor] => [
      name,
      sliceRows(tensor, begin, count),
    ]);
    begin += count;
    return new Map(own);
  });
}
