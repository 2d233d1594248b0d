/** Between pictures [b, h, w, 3] of 0..1 and what a VAE takes and gives: [b, 3, h, w] of -1..1. */
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import type { NodeContext } from "./node-context.ts";
import { crop, toPixels, toPlanes } from "./upscale.ts";
import type { Vae } from "./values.ts";

export type Tile = Readonly<{ size: number; overlap: number }>;

type VaeCall = Readonly<{ context: NodeContext; tile?: Tile }>;

const callOptions = ({ context, tile }: VaeCall) => ({
  signal: context.signal,
  ...(tile && { tile }),
});

/** Latent [b, 4, h, w] to pictures, cut to 0..1 as ComfyUI does. */
export async function decodeLatent(
  { vae }: Vae,
  latent: FloatTensor,
  call: VaeCall,
): Promise<FloatTensor> {
  const planes = await vae.decode(latent, callOptions(call));
  const data = planes.data.map((v) => Math.min(Math.max(Math.fround(v + 1) / 2, 0), 1));
  return toPixels({ shape: planes.shape, data });
}

/** Pictures to a latent. Sides that are no multiple of the VAE's cell lose their border. */
export async function encodePixels(
  target: Vae,
  pixels: FloatTensor,
  call: VaeCall,
): Promise<FloatTensor> {
  const planes = cropToCells(toPlanes(requireRgb(pixels)), cellOf(target));
  const data = planes.data.map((v) => v * 2 - 1);
  return target.vae.encode({ shape: planes.shape, data }, callOptions(call));
}

/** Pixels of one latent cell along an axis. */
export function cellOf({ vae }: Vae): number {
  return vae.info.vae?.downscale ?? 8;
}

/** The middle of [b, c, h, w] whose sides are multiples of `cell`. */
export function cropToCells(planes: FloatTensor, cell: number): FloatTensor {
  const [height = 1, width = 1] = planes.shape.slice(-2);
  if (height < cell || width < cell) {
    throw new LunaError(
      "REQUEST_INVALID",
      `A picture of ${width}x${height} is smaller than one latent cell of ${cell}x${cell} pixels.`,
    );
  }
  return crop(planes, {
    y: (height % cell) >> 1,
    x: (width % cell) >> 1,
    height: height - (height % cell),
    width: width - (width % cell),
  });
}

function requireRgb(pixels: FloatTensor): FloatTensor {
  if (pixels.shape.length === 4 && pixels.shape[3] === 3) return pixels;
  throw new LunaError(
    "REQUEST_INVALID",
    `A picture is [${pixels.shape.join(", ")}]; [batch, height, width, 3] is needed.`,
  );
}
