import type { Checkpoint } from "../checkpoint/index.ts";
import type { RunItem } from "../engine/index.ts";
import type { Request } from "../protocol/index.ts";
import { VAE_TILE, VAE_WHOLE_CELLS_MAX } from "./limits.ts";
import type { Tensors } from "./run-inputs.ts";

/**
 * How the engine cuts a picture: as the client says, in pixels, or by itself when it is large.
 * Undefined for one piece. An overlap of more than a quarter is cut to that, as ComfyUI does.
 */
export function itemTile(
  request: Request<"vae_encode" | "vae_decode">,
  tensors: Tensors,
  { vae }: Checkpoint,
): RunItem["tile"] {
  const downscale = vae?.config.downscale ?? 1;
  const [, , height = 0, width = 0] =
    tensors.get(request.op === "vae_decode" ? "latent" : "image")?.shape ?? [];
  const cellSide = request.op === "vae_decode" ? 1 : downscale;
  const cells = (height / cellSide) * (width / cellSide);
  const tile = request.tile ?? (cells > VAE_WHOLE_CELLS_MAX ? VAE_TILE : undefined);
  if (!tile) return undefined;
  const overlap = Math.min(tile.overlap, Math.floor(tile.size / 4));
  return { size: Math.floor(tile.size / downscale), overlap: Math.floor(overlap / downscale) };
}
