import type { TextEncoderConfig } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { concatRows, floatOf, rowsOf } from "./batch.ts";
import { textConfigOf } from "./build-graph.ts";
import {
  adapterFeedsOf,
  type BatchResult,
  type Net,
  type PreparedItem,
  refuseUnknown,
} from "./net.ts";
import type { RunItem } from "./port.ts";
import { splitRows } from "./run-unet.ts";
import { integersToOrt, runSession, toOrt } from "./runtime.ts";

const KNOWN = new Set(["tokens", "embeddings", "embedding_positions"]);

/** Token ids of an item, [rows, time]; each checked against the vocabulary. */
function tokensOf(item: RunItem, config: TextEncoderConfig): FloatTensor {
  refuseUnknown(item, (name) => KNOWN.has(name));
  const tokens = floatOf(item, "tokens"); // Ids are far below 2^24: exact in float32.
  const [, time = 0] = tokens.shape;
  if (tokens.shape.length !== 2 || time > config.positions) {
    throw new LunaError(
      "TENSOR_MALFORMED",
      `"tokens" is [${tokens.shape.join(", ")}]; rows of up to ${config.positions} are needed.`,
    );
  }
  const wrong = tokens.data.find((id) => !(id >= 0 && id < config.vocabulary));
  if (wrong === undefined) return tokens;
  throw new LunaError(
    "TENSOR_MALFORMED",
    `Token ${wrong} is outside the vocabulary of ${config.vocabulary}.`,
  );
}

/** CLIP pools where the end-of-text token, its highest id, stands for the first time. */
export function endPositions(tokens: FloatTensor): number[] {
  const [rows = 0, time = 0] = tokens.shape;
  return Array.from({ length: rows }, (_, row) => {
    const ids = tokens.data.subarray(row * time, (row + 1) * time);
    return ids.indexOf(ids.reduce((highest, id) => Math.max(highest, id), -1));
  });
}

/** Vectors in place of tokens: the vectors [rows, time, width] and where they stand [rows, time, 1]. */
export function embeddingOverrides(
  items: readonly RunItem[],
  tokens: readonly FloatTensor[],
  width: number,
): { override: FloatTensor; mask: FloatTensor } {
  if (items.every((item) => !item.tensors.has("embeddings"))) {
    const [override, mask] = [new Float32Array(width), new Float32Array(1)];
    return {
      override: { shape: [1, 1, width], data: override },
      mask: { shape: [1, 1, 1], data: mask },
    };
  }
  const parts = items.map((item, index) => {
    const [rows = 0, time = 0] = tokens[index]?.shape ?? [];
    const override = new Float32Array(rows * time * width);
    const mask = new Float32Array(rows * time);
    if (item.tensors.has("embeddings")) fillOverrides(item, { override, mask, rows, time, width });
    return {
      override: { shape: [rows, time, width], data: override },
      mask: { shape: [rows, time, 1], data: mask },
    };
  });
  return {
    override: concatRows(
      parts.map((part) => part.override),
      "embeddings",
    ),
    mask: concatRows(
      parts.map((part) => part.mask),
      "embedding_positions",
    ),
  };
}

function fillOverrides(
  item: RunItem,
  into: { override: Float32Array; mask: Float32Array; rows: number; time: number; width: number },
): void {
  const { override, mask, rows, time, width } = into;
  const vectors = floatOf(item, "embeddings");
  const positions = floatOf(item, "embedding_positions");
  const count = rowsOf(vectors);
  if (vectors.shape[1] !== width || positions.shape.join() !== `${count},2`) {
    throw new LunaError(
      "TENSOR_MALFORMED",
      `"embeddings" is [${vectors.shape.join(", ")}] at "embedding_positions" [${positions.shape.join(", ")}]; [n, ${width}] and [n, 2] are needed.`,
    );
  }
  for (let index = 0; index < count; index++) {
    const [row = 0, column = 0] = positions.data.subarray(index * 2, index * 2 + 2);
    if (!(row >= 0 && row < rows && column >= 0 && column < time)) {
      throw new LunaError(
        "TENSOR_MALFORMED",
        `An embedding stands at row ${row}, column ${column} of ${rows} x ${time} tokens.`,
      );
    }
    const at = row * time + column;
    override.set(vectors.data.subarray(index * width, (index + 1) * width), at * width);
    mask[at] = 1;
  }
}

/** Index of the hidden state in the graph (N = after layer N) from ComfyUI's count from the end. */
export function hiddenIndex(layer: number, layers: number): number {
  const index = layers + 1 + layer;
  if (Number.isInteger(layer) && layer < 0 && index >= 0) return index;
  throw new LunaError(
    "REQUEST_INVALID",
    `Layer ${layer} of ${layers}: a number from -1 (last) to ${-layers - 1} (embeddings) is needed.`,
  );
}

/** Items of one batch that want the same hidden state run together. */
export async function runText(net: Net, items: readonly PreparedItem[]): Promise<BatchResult> {
  const outputs = new Map<PreparedItem, ReadonlyMap<string, FloatTensor>>();
  let ms = 0;
  const byLayer = new Map<number, PreparedItem[]>();
  for (const prepared of items) {
    const layer = prepared.item.layer ?? -1;
    byLayer.set(layer, [...(byLayer.get(layer) ?? []), prepared]);
  }
  for (const [layer, group] of byLayer) {
    const result = await runLayer(net, group, layer);
    ms += result.ms;
    for (const [index, prepared] of group.entries()) {
      outputs.set(prepared, result.outputs[index] ?? new Map());
    }
  }
  return { outputs: items.map((prepared) => outputs.get(prepared) ?? new Map()), ms };
}

async function runLayer(
  net: Net,
  group: readonly PreparedItem[],
  layer: number,
): Promise<BatchResult> {
  const config = textConfigOf(net.checkpoint, net.component);
  const { runtime, compute } = net;
  const items = group.map(({ item }) => item);
  const perItem = items.map((item) => tokensOf(item, config));
  const rows = perItem.map(rowsOf);
  const tokens = concatRows(perItem, "tokens");
  const { override, mask } = embeddingOverrides(items, perItem, config.width);
  const ends = endPositions(tokens);
  const inputs = Object.assign(adapterFeedsOf(net, group, rows), {
    tokens: integersToOrt(runtime, Array.from(tokens.data, BigInt), tokens.shape),
    embedding_override: toOrt(runtime, override, compute),
    embedding_mask: toOrt(runtime, mask, compute),
    layer: integersToOrt(runtime, [BigInt(hiddenIndex(layer, config.layers))], [1]),
    end_position: integersToOrt(runtime, ends.map(BigInt), [ends.length]),
  });
  const { outputs, ms } = await runSession(net.session, inputs);
  const split = splitRows(outputs, rows).map((own, index) =>
    chooseHidden(own, items[index]?.isLayerNormed ?? false),
  );
  return { outputs: split, ms };
}

/** One of the two forms of the hidden state, under one name. */
function chooseHidden(
  outputs: ReadonlyMap<string, FloatTensor>,
  isLayerNormed: boolean,
): ReadonlyMap<string, FloatTensor> {
  const chosen = new Map(outputs);
  const normed = chosen.get("hidden_normed");
  chosen.delete("hidden_normed");
  if (isLayerNormed && normed !== undefined) chosen.set("hidden", normed);
  return chosen;
}
