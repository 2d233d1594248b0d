/** Inpainting: masks over the latent, and the extra channels of inpaint and pix2pix models. */
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { round, roundHalfEven } from "./float-math.ts";
import { scaleNoise } from "./model-sampling.ts";
import { repeatToBatch, resizeBilinear, type Size, spreadToBatch } from "./resize.ts";
import { scaled } from "./vector.ts";

type Denoise = (x: Float32Array, sigma: number) => Promise<Float32Array>;

/** What the extra channels of a model are made of. */
export type ConcatSource = Readonly<{
  /** "inpaint": mask, then masked latent (9 channels in all); "pix2pix": the edited image's latent. */
  type: "inpaint" | "pix2pix";
  /** [b, 4, H, W] as the UNet sees it: stands in where a prompt names no latent of its own. */
  latent: FloatTensor;
  /** [b, 4, H, W], where the run has a noise mask. */
  mask?: FloatTensor;
  latentScale: number;
}>;

/** A black picture, encoded: what an inpaint model sees where no mask is given. */
const BLACK_LATENT = [0.8223, -0.6876, 0.6364, 0.138] as const;

function latentSize(shape: readonly number[]): Size {
  return { height: shape[2] ?? 1, width: shape[3] ?? 1 };
}

/** A mask [h, w], [n, h, w] or [n, k, h, w] as one channel, [n, 1, h, w]. */
function firstChannel(mask: FloatTensor): FloatTensor {
  const [height, width] = [mask.shape.at(-2) ?? 1, mask.shape.at(-1) ?? 1];
  const channels = mask.shape.length === 4 ? (mask.shape[1] ?? 1) : 1;
  const plane = height * width;
  const rows = mask.data.length / (plane * channels);
  const data = new Float32Array(rows * plane);
  for (let row = 0; row < rows; row++) {
    const begin = row * channels * plane;
    data.set(mask.data.subarray(begin, begin + plane), row * plane);
  }
  return { shape: [rows, 1, height, width], data };
}

/**
 * A noise mask (1 is repainted) of any size as weights of a latent [b, c, H, W]: bilinear, every
 * channel alike.
 */
export function noiseMaskOf(mask: FloatTensor, shape: readonly number[]): FloatTensor {
  const [batch = 1, channels = 1] = shape;
  const { height, width } = { height: mask.shape.at(-2) ?? 1, width: mask.shape.at(-1) ?? 1 };
  const rows = mask.data.length / (height * width);
  const resized = resizeBilinear(
    { shape: [rows, 1, height, width], data: mask.data },
    latentSize(shape),
  );
  const fitted = repeatToBatch(resized, batch);
  const plane = fitted.data.length / batch;
  const data = new Float32Array(batch * channels * plane);
  for (let index = 0; index < batch * channels; index++) {
    const begin = Math.floor(index / channels) * plane;
    data.set(fitted.data.subarray(begin, begin + plane), index * plane);
  }
  return { shape, data };
}

/** [b, k, H, W] from single-channel planes and latents of the same batch, along the channels. */
function joinChannels(parts: readonly FloatTensor[], shape: readonly number[]): FloatTensor {
  const [batch = 1] = shape;
  const { height, width } = latentSize(shape);
  const channels = parts.reduce((sum, part) => sum + (part.shape[1] ?? 1), 0);
  const data = new Float32Array(batch * channels * height * width);
  let end = 0;
  for (let row = 0; row < batch; row++) {
    for (const part of parts) {
      const length = part.data.length / batch;
      data.set(part.data.subarray(row * length, (row + 1) * length), end);
      end += length;
    }
  }
  return { shape: [batch, channels, height, width], data };
}

function fitLatent(latent: FloatTensor, shape: readonly number[]): FloatTensor {
  if (latent.shape.length !== 4 || latent.shape[1] !== shape[1]) {
    throw new LunaError(
      "REQUEST_INVALID",
      `A latent to concatenate is [${latent.shape.join(", ")}]: it needs ${shape[1]} channels, as the sampled latent has.`,
    );
  }
  return spreadToBatch(resizeBilinear(latent, latentSize(shape), "centre"), shape[0] ?? 1);
}

/** The same value in every cell of a channel. */
function constantLatent(values: readonly number[], shape: readonly number[]): FloatTensor {
  const [batch = 1] = shape;
  const { height, width } = latentSize(shape);
  const plane = height * width;
  const data = new Float32Array(batch * values.length * plane);
  for (let index = 0; index < batch * values.length; index++) {
    data.fill(values[index % values.length] as number, index * plane, (index + 1) * plane);
  }
  return { shape: [batch, values.length, height, width], data };
}

/** Extra channels of one prompt, [b, 5 or 4, H, W]. */
export function concatOf(
  source: ConcatSource,
  prompt: Readonly<{ concatLatent?: FloatTensor; concatMask?: FloatTensor }>,
  shape: readonly number[],
): FloatTensor {
  const own = prompt.concatLatent;
  if (source.type === "pix2pix") {
    // Diffusers' pix2pix models take the encoder's latent unscaled; without one, an empty picture.
    return own ? fitLatent(own, shape) : constantLatent([0, 0, 0, 0], shape);
  }
  const mask = prompt.concatMask ?? source.mask;
  if (!mask)
    return joinChannels([constantLatent([1], shape), constantLatent(BLACK_LATENT, shape)], shape);
  const latent = own ? { ...own, data: scaled(own.data, source.latentScale) } : source.latent;
  const plane = resizeBilinear(firstChannel(mask), latentSize(shape), "centre");
  const hard = { shape: plane.shape, data: plane.data.map(roundHalfEven) };
  return joinChannels([spreadToBatch(hard, shape[0] ?? 1), fitLatent(latent, shape)], shape);
}

/**
 * Keeps what the mask leaves out: before each forward pass the kept part is the original latent at
 * the step's noise level, after it the original latent itself.
 */
export function withNoiseMask(
  denoise: Denoise,
  { mask, latent, noise }: Readonly<Record<"mask" | "latent" | "noise", Float32Array>>,
): Denoise {
  const kept = Float32Array.from(mask, (value) => 1 - value);
  const blend = (inside: Float32Array, outside: Float32Array): Float32Array => {
    const blended = new Float32Array(inside.length);
    for (let index = 0; index < inside.length; index++) {
      const painted = round((inside[index] as number) * (mask[index] as number));
      blended[index] = painted + round((outside[index] as number) * (kept[index] as number));
    }
    return blended;
  };
  return async (x, sigma) => {
    const noisy = scaleNoise(sigma, { noise, latent });
    return blend(await denoise(blend(x, noisy), sigma), latent);
  };
}
