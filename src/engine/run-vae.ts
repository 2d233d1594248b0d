import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { concatRows, floatOf, rowsOf, sliceRows } from "./batch.ts";
import {
  VAE_PIXELS_UNTILED_MAX,
  VAE_TILE_DEFAULT,
  VAE_TILE_SIZE_MAX,
  VAE_TILE_SIZE_MIN,
} from "./limits.ts";
import { type BatchResult, type Net, type PreparedItem, refuseUnknown } from "./net.ts";
import type { RunItem } from "./port.ts";
import { runSession, toOrt } from "./runtime.ts";
import { computeTiled } from "./vae-tiling.ts";

type Tile = NonNullable<RunItem["tile"]>;

/** What differs between the two halves. `cell`: input cells a latent cell; `scale`: output / input. */
type Half = Readonly<{ input: string; output: string; cell: number; scale: number }>;

/** Each item by itself: their sizes may differ, and memory, not time, is what a VAE is short of. */
export async function runVae(net: Net, items: readonly PreparedItem[]): Promise<BatchResult> {
  const config = net.checkpoint.vae?.config;
  if (config === undefined) throw new LunaError("MODEL_UNKNOWN", "The checkpoint has no VAE.");
  const { downscale } = config;
  const half: Half =
    net.component === "vae-decoder"
      ? { input: "latent", output: "image", cell: 1, scale: downscale }
      : { input: "image", output: "latent", cell: downscale, scale: 1 / downscale };
  const outputs: ReadonlyMap<string, FloatTensor>[] = [];
  let ms = 0;
  const compute = async (input: FloatTensor): Promise<FloatTensor> => {
    const feeds = { [half.input]: toOrt(net.runtime, input, net.compute) };
    const result = await runSession(net.session, feeds);
    ms += result.ms;
    const output = result.outputs.get(half.output);
    if (output === undefined) throw new LunaError("INTERNAL", `The graph gave no ${half.output}.`);
    return output;
  };
  for (const { item } of items) {
    outputs.push(new Map([[half.output, await runItem(item, half, compute)]]));
  }
  return { outputs, ms };
}

async function runItem(
  item: RunItem,
  half: Half,
  compute: (input: FloatTensor) => Promise<FloatTensor>,
): Promise<FloatTensor> {
  refuseUnknown(item, (name) => name === half.input);
  const input = floatOf(item, half.input);
  const [, , height = 0, width = 0] = input.shape;
  if (input.shape.length !== 4 || height === 0 || width === 0) {
    throw new LunaError(
      "TENSOR_MALFORMED",
      `"${half.input}" is [${input.shape.join(", ")}]; [rows, channels, height, width] is needed.`,
    );
  }
  const tiled = (rows: FloatTensor, tile: Tile): Promise<FloatTensor> => {
    const { size, overlap } = tile;
    const tiling = { size: size * half.cell, overlap: overlap * half.cell, scale: half.scale };
    return computeTiled(rows, tiling, compute);
  };
  const pixels = height * width * (half.scale > 1 ? half.scale ** 2 : 1);
  const tile = item.tile ?? (pixels > VAE_PIXELS_UNTILED_MAX ? VAE_TILE_DEFAULT : undefined);
  if (tile !== undefined) checkTile(tile);
  const count = Math.max(1, Math.floor(VAE_PIXELS_UNTILED_MAX / pixels));
  const parts: FloatTensor[] = [];
  for (let begin = 0; begin < rowsOf(input); begin += count) {
    const rows = sliceRows(input, begin, Math.min(count, rowsOf(input) - begin));
    parts.push(tile === undefined ? await untiled(rows, compute, tiled) : await tiled(rows, tile));
  }
  return concatRows(parts, half.output);
}

/** In one piece if memory allows. */
async function untiled(
  rows: FloatTensor,
  compute: (input: FloatTensor) => Promise<FloatTensor>,
  tiled: (input: FloatTensor, tile: Tile) => Promise<FloatTensor>,
): Promise<FloatTensor> {
  try {
    return await compute(rows);
  } catch (error) {
    if (!LunaError.isCode(error, "MEMORY_EXCEEDED")) throw error;
    return await tiled(rows, VAE_TILE_DEFAULT);
  }
}

function checkTile({ size, overlap }: Tile): void {
  const isWhole = Number.isInteger(size) && Number.isInteger(overlap);
  const isSized = size >= VAE_TILE_SIZE_MIN && size <= VAE_TILE_SIZE_MAX;
  if (isWhole && isSized && overlap >= 0 && overlap < size) return;
  throw new LunaError(
    "REQUEST_INVALID",
    `A tile of ${size} latent cells with an overlap of ${overlap}: sizes from ${VAE_TILE_SIZE_MIN} to ${VAE_TILE_SIZE_MAX} with a smaller overlap are needed.`,
  );
}
