/** Which kind of preview a prompt gets: TAESD's where its file is there, else the linear one. */
import type { VaeModel } from "../client/index.ts";
import { encodePng, type LatentPreview, type NodeServices, toPixels } from "../nodes/index.ts";
import { type FloatTensor, floatTensor } from "../tensor/index.ts";
import { latentToPng } from "./latent-preview.ts";
import { PREVIEW_SIDE_MAX } from "./limits.ts";
import type { Previewer } from "./run-messages.ts";

export const PREVIEW_METHODS = ["auto", "none", "latent2rgb", "taesd"] as const;
export type PreviewMethod = (typeof PREVIEW_METHODS)[number];

export function isPreviewMethod(name: unknown): name is PreviewMethod {
  return PREVIEW_METHODS.some((method) => method === name);
}

/** One prompt's previews. */
export function createPreviewer(method: PreviewMethod, services: NodeServices): Previewer {
  if (method === "none") return () => undefined;
  if (method === "latent2rgb") return latentToPng;
  return taesdPreviewer(services);
}

/**
 * The decoder runs beside the sampler, one picture at a time, so what is shown is a step or two
 * old; until the first is there, and where there is no decoder, the linear preview stands in.
 */
function taesdPreviewer(services: NodeServices): Previewer {
  let latest: Uint8Array | undefined;
  let isBusy = false;
  let isAbsent = false;
  return (preview) => {
    if (!isBusy && !isAbsent) {
      isBusy = true;
      void decode(preview, services)
        .then((png) => {
          latest = png;
          isAbsent = png === undefined;
        })
        // A preview is no reason to fail a run.
        .catch(() => {
          isAbsent = true;
        })
        .finally(() => {
          isBusy = false;
        });
    }
    return latest ?? latentToPng(preview);
  };
}

async function decode(
  { latent, info }: LatentPreview,
  services: NodeServices,
): Promise<Uint8Array | undefined> {
  const vae = await openDecoder(info.family?.startsWith("sdxl") === true, services);
  if (vae === undefined) return undefined;
  const [, channels = 4, height = 1, width = 1] = latent.shape;
  const first = latent.data.subarray(0, channels * height * width);
  const raw = floatTensor(
    [1, channels, height, width],
    // A TAESD takes latents of its file's scale, whichever family it is for.
    first.map((value) => value / vae.info.latentScale),
  );
  const planes = await vae.decode(raw);
  const pixels = toPixels({ ...planes, data: planes.data.map((value) => (value + 1) / 2) });
  return encodePng(thinOut(pixels), 0, { level: 1 });
}

async function openDecoder(isXl: boolean, services: NodeServices): Promise<VaeModel | undefined> {
  const wanted = isXl ? /^taesdxl/i : /^taesd(?!xl|3)/i;
  const fits = (file: string) => wanted.test(file) && !/encoder/i.test(file);
  const name = (await services.listFiles("vae_approx")).find(fits);
  if (name === undefined) return undefined;
  const request = { kind: "vae_approx", name, mode: "auto", parts: ["vae"] } as const;
  return (await services.openCheckpoint(request, new AbortController().signal)).vae;
}

/** Every n-th pixel, so that the longer side is no more than a preview's. */
function thinOut(pixels: FloatTensor): FloatTensor {
  const [, height = 1, width = 1] = pixels.shape;
  const stride = Math.ceil(Math.max(height, width) / PREVIEW_SIDE_MAX);
  if (stride === 1) return pixels;
  const [rows, columns] = [Math.floor(height / stride), Math.floor(width / stride)];
  const data = new Float32Array(rows * columns * 3);
  for (let i = 0; i < data.length; i++) {
    const [y, x] = [Math.floor(i / 3 / columns), Math.floor(i / 3) % columns];
    data[i] = pixels.data[(y * stride * width + x * stride) * 3 + (i % 3)] ?? 0;
  }
  return floatTensor([1, rows, columns, 3], data);
}
