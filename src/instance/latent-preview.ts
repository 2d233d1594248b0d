/** Pictures of unfinished latents: a linear map from latent channels to RGB, one pixel a cell. */
import type { LatentPreview } from "../nodes/index.ts";
import { encodePng } from "../nodes/index.ts";
import { type FloatTensor, floatTensor } from "../tensor/index.ts";

const CHANNELS = 4;
type Factors = readonly (readonly [red: number, green: number, blue: number])[];

/** Published with InvokeAI (Apache-2.0), after keturn's fit of SD 1.4 latents to their pictures. */
const SD1_FACTORS: Factors = [
  [0.298, 0.207, 0.208],
  [0.187, 0.286, 0.173],
  [-0.158, 0.189, 0.264],
  [-0.184, -0.271, -0.473],
];
const SDXL_FACTORS: Factors = [
  [0.3816, 0.493, 0.532],
  [-0.3753, 0.1631, 0.1739],
  [0.177, 0.3588, -0.2048],
  [-0.435, -0.2644, -0.4289],
];

/** Least squares over the encoded pictures of assets/sheet.png; the last row is added to every cell. */
const EMBEDDED_FACTORS: Factors = [
  [0.098, 0.157, -0.108],
  [0.364, -0.125, -0.632],
  [-0.485, -0.538, -0.78],
  [0.183, 0.427, 0.761],
  [0.193, 0.022, -0.027],
];
/** Its VAE is one of its own: SD's colours are not its. */
const EMBEDDED = /(^|\/)luna-emoji-v1\.safetensors$/;

/** The first picture of the batch as a PNG. */
export function latentToPng({ latent, info }: LatentPreview): Uint8Array {
  return encodePng(toRgb(latent, factorsOf(info)), 0, { level: 1 });
}

function factorsOf({ id, family }: LatentPreview["info"]): Factors {
  if (EMBEDDED.test(id)) return EMBEDDED_FACTORS;
  return family?.startsWith("sdxl") === true ? SDXL_FACTORS : SD1_FACTORS;
}

/** Latents as the UNet sees them, [b, 4, h, w], to the first picture [1, h, w, 3] of 0..1. */
function toRgb({ shape, data }: FloatTensor, factors: Factors): FloatTensor {
  const [height = 1, width = 1] = shape.slice(-2);
  const cells = height * width;
  const rgb = new Float32Array(cells * 3);
  for (let cell = 0; cell < cells; cell++) {
    for (let color = 0; color < 3; color++) {
      let sum = 0;
      for (const [channel, factor] of factors.entries()) {
        const value = channel < CHANNELS ? data[channel * cells + cell] : 1;
        sum += (value ?? 0) * (factor[color] ?? 0);
      }
      rgb[cell * 3 + color] = (sum + 1) / 2;
    }
  }
  return floatTensor([1, height, width, 3], rgb);
}
