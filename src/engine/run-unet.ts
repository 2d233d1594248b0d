import type { UNetConfig } from "../checkpoint/index.ts";
import { timestepEmbedding } from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import { type FloatTensor, toFloat } from "../tensor/index.ts";
import { concatRows, controlRows, expandRows, floatOf, rowsOf, sliceRows } from "./batch.ts";
import {
  adapterFeedsOf,
  type BatchResult,
  type Net,
  type PreparedItem,
  refuseUnknown,
} from "./net.ts";
import type { RunItem } from "./port.ts";
import { runSession, toOrt } from "./runtime.ts";

const isControl = (name: string): boolean => name.startsWith("control.");

/**
 * The inputs of the UNet graph for a batch, adapters aside, and the batch rows of each item.
 * `controls` are the graph's control inputs. The sinusoid of the timesteps is computed here.
 */
export function unetFeeds(
  config: UNetConfig,
  items: readonly RunItem[],
  controls: readonly string[],
): { feeds: ReadonlyMap<string, FloatTensor>; rows: readonly number[] } {
  const names = ["x", "context", ...(config.admChannels > 0 ? ["y"] : [])];
  const known = new Set([...names, "timesteps", ...controls]);
  const rows = items.map((item) => {
    refuseUnknown(item, (name) => known.has(name));
    return rowsOf(floatOf(item, "x"));
  });
  const joined = (name: string): FloatTensor =>
    concatRows(
      items.map((item, index) => expandRows(floatOf(item, name), rows[index] ?? 0, name)),
      name,
    );
  const feeds = new Map(names.map((name) => [name, joined(name)]));
  const timesteps = joined("timesteps");
  if (timesteps.shape.length !== 1) {
    throw new LunaError(
      "TENSOR_MALFORMED",
      `"timesteps" has ${timesteps.shape.length} axes, not 1.`,
    );
  }
  feeds.set("timestep_embedding", {
    shape: [timesteps.data.length, config.modelChannels],
    data: timestepEmbedding(timesteps.data, config.modelChannels),
  });
  for (const name of controls) {
    const parts = items.map((item) => {
      const tensor = item.tensors.get(name);
      return tensor && toFloat(tensor);
    });
    feeds.set(name, controlRows(parts, rows, name));
  }
  return { feeds, rows };
}

export async function runUNet(net: Net, items: readonly PreparedItem[]): Promise<BatchResult> {
  const config = net.checkpoint.unet?.config;
  if (config === undefined) throw new LunaError("MODEL_UNKNOWN", "The checkpoint has no UNet.");
  const controls = net.session.inputNames.filter(isControl);
  const { feeds, rows } = unetFeeds(
    config,
    items.map(({ item }) => item),
    controls,
  );
  const inputs = adapterFeedsOf(net, items, rows);
  for (const [name, tensor] of feeds) inputs[name] = toOrt(net.runtime, tensor, net.compute);
  const { outputs, ms } = await runSession(net.session, inputs);
  return { outputs: splitRows(outputs, rows), ms };
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
