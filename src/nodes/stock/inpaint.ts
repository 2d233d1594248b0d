import { type FloatTensor, floatTensor } from "../../tensor/index.ts";
import { defineNode, output } from "../node-definition.ts";
import { cellOf, cropToCells, encodePixels } from "../pixels.ts";
import { resample } from "../resample.ts";
import { roundHalfEven, toPixels, toPlanes } from "../upscale.ts";
import type { Conditioning } from "../values.ts";

type Masked = Readonly<{
  /** [b, h, w, 3], grey under the mask. */
  pixels: FloatTensor;
  /** [n, 1, h, w], as given but at the picture's size. */
  mask: FloatTensor;
}>;

/** Brings a mask to the picture's size, cuts both to whole latent cells, greys what is masked. */
function maskPixels(pixels: FloatTensor, mask: FloatTensor, cell: number): Masked {
  const [, height = 1, width = 1] = pixels.shape;
  const [maskHeight = 1, maskWidth = 1] = mask.shape.slice(-2);
  const rows = mask.data.length / (maskHeight * maskWidth);
  const plane = floatTensor([rows, 1, maskHeight, maskWidth], mask.data);
  const fitted = cropToCells(resample(plane, { height, width }, "bilinear"), cell);
  const planes = cropToCells(toPlanes(pixels), cell);
  const [batch = 1, channels = 1, h = 1, w = 1] = planes.shape;
  const cells = h * w;
  const data = new Float32Array(planes.data.length);
  for (let i = 0; i < data.length; i++) {
    const row = Math.floor(i / (channels * cells)) % batch;
    const kept = 1 - roundHalfEven(fitted.data[(row % rows) * cells + (i % cells)] ?? 0);
    data[i] = Math.fround(Math.fround((planes.data[i] ?? 0) - 0.5) * kept) + 0.5;
  }
  return { pixels: toPixels({ shape: planes.shape, data }), mask: fitted };
}

/**
 * Grows the 1s of [n, 1, h, w] by a square of `size` pixels, so that a seam lies outside what is
 * repainted. An even square reaches one pixel further to the top and left, as ComfyUI's does.
 */
function growMask(mask: FloatTensor, size: number): FloatTensor {
  const hard = mask.data.map(roundHalfEven);
  if (size === 0) return floatTensor(mask.shape, hard);
  const [height = 1, width = 1] = mask.shape.slice(-2);
  const before = Math.ceil((size - 1) / 2);
  const grown = new Float32Array(hard.length);
  for (let i = 0; i < hard.length; i++) {
    if ((hard[i] ?? 0) === 0) continue;
    const [y, x] = [Math.floor(i / width) % height, i % width];
    const plane = i - y * width - x;
    // Output o sees inputs o - before ... o - before + size - 1.
    const top = Math.max(y + before - size + 1, 0);
    const left = Math.max(x + before - size + 1, 0);
    for (let row = top; row <= Math.min(y + before, height - 1); row++) {
      const end = Math.min(x + before, width - 1) + 1;
      grown.fill(1, plane + row * width + left, plane + row * width + end);
    }
  }
  return floatTensor(mask.shape, grown);
}

const vaeEncodeForInpaint = defineNode({
  name: "VAEEncodeForInpaint",
  displayName: "VAE Encode (for Inpainting)",
  category: "latent/inpaint",
  inputs: {
    pixels: { type: "IMAGE" },
    vae: { type: "VAE" },
    mask: { type: "MASK" },
    grow_mask_by: { type: "INT", default: 6, min: 0, max: 64, step: 1 },
  },
  outputs: [output("LATENT")],
  async run({ pixels, vae, mask, grow_mask_by }, context) {
    const masked = maskPixels(pixels, mask, cellOf(vae));
    const samples = await encodePixels(vae, masked.pixels, { context });
    return { outputs: [{ samples, noiseMask: growMask(masked.mask, grow_mask_by) }] };
  },
});

const inpaintModelConditioning = defineNode({
  name: "InpaintModelConditioning",
  displayName: "InpaintModelConditioning",
  category: "conditioning/inpaint",
  description: "Shows the picture and the mask to a model that was trained for inpainting.",
  inputs: {
    positive: { type: "CONDITIONING" },
    negative: { type: "CONDITIONING" },
    vae: { type: "VAE" },
    pixels: { type: "IMAGE" },
    mask: { type: "MASK" },
    noise_mask: { type: "BOOLEAN", default: true, isOptional: true },
  },
  outputs: [
    output("CONDITIONING", "positive"),
    output("CONDITIONING", "negative"),
    output("LATENT", "latent"),
  ],
  async run({ positive, negative, vae, pixels, mask, noise_mask = true }, context) {
    const masked = maskPixels(pixels, mask, cellOf(vae));
    const concatLatent = await encodePixels(vae, masked.pixels, { context });
    const samples = await encodePixels(vae, pixels, { context });
    const shown = (conditioning: Conditioning) =>
      conditioning.map((part) => ({ ...part, concatLatent, concatMask: masked.mask }));
    const latent = { samples, ...(noise_mask && { noiseMask: masked.mask }) };
    return { outputs: [shown(positive), shown(negative), latent] };
  },
});

export const INPAINT_NODES = [vaeEncodeForInpaint, inpaintModelConditioning];
