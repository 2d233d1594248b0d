/** Pictures of unfinished latents: a linear map from latent channels to RGB, one pixel a cell. */
import type { LatentPreview } from "../nodes/index.ts";
import { encodePng } from "../nodes/index.ts";
import { type FloatTensor, floatTensor } from "../tensor/index.ts";

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

/** The first picture of the batch as a PNG. */
export function latentToPng({ latent, info }: LatentPreview): Uint8Array {
  const factors = info.family?.startsWith("sdxl") === true ? SDXL_FACTORS : SD1_FACTORS;
  return encodePng(toRgb(latent, factors), 0, { level: 1 });
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
        sum += (data[channel * cells + cell] ?? 0) * (factor[color] ?? 0);
      }
      rgb[cell * 3 + color] = (sum + 1) / 2;
    }
  }
  return floatTensor([1, height, width, 3], rgb);
}
