import { LunaError } from "../kernel/index.ts";
import { type FloatTensor, floatTensor } from "../tensor/index.ts";
import { bislerp } from "./bislerp.ts";
import { resampleLanczos } from "./lanczos.ts";
import { VALUES_MAX } from "./limits.ts";
import { type ResampleMethod, resample, type Size } from "./resample.ts";

export const IMAGE_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"] as const;
export const LATENT_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"] as const;
export const CROP_METHODS = ["disabled", "center"] as const;

export type UpscaleOptions = Readonly<{ method: string; isCropped?: boolean }>;

/**
 * ComfyUI's common_upscale of [b, c, h, w]: crops to the new aspect from the middle if asked, then
 * resizes. Throws LIMIT_EXCEEDED for a result beyond VALUES_MAX, REQUEST_INVALID for no size.
 */
export function upscale(image: FloatTensor, to: Size, options: UpscaleOptions): FloatTensor {
  const [batch = 1, channels = 1] = image.shape;
  if (to.height < 1 || to.width < 1) {
    throw new LunaError("REQUEST_INVALID", `A picture of ${to.width}x${to.height} has no pixels.`);
  }
  const values = batch * channels * to.height * to.width;
  if (values > VALUES_MAX) {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `${batch} pictures of ${to.width}x${to.height} are ${values} values, limit ${VALUES_MAX}.`,
    );
  }
  const source = options.isCropped === true ? cropToAspect(image, to) : image;
  switch (options.method) {
    case "lanczos":
      return resampleLanczos(source, to);
    case "bislerp":
      return bislerp(source, to);
    default:
      // The inputs of the nodes list these methods and no others.
      return resample(source, to, options.method as ResampleMethod);
  }
}

/** Python's round: halves to the even neighbour. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

function cropToAspect(image: FloatTensor, to: Size): FloatTensor {
  const [height = 1, width = 1] = image.shape.slice(-2);
  const [oldAspect, newAspect] = [width / height, to.width / to.height];
  const x =
    oldAspect > newAspect ? roundHalfEven((width - width * (newAspect / oldAspect)) / 2) : 0;
  const y =
    oldAspect < newAspect ? roundHalfEven((height - height * (oldAspect / newAspect)) / 2) : 0;
  return crop(image, { y, x, height: height - 2 * y, width: width - 2 * x });
}

/** A window of the last two axes of [..., h, w]. */
export function crop(
  image: FloatTensor,
  window: Size & Readonly<{ y: number; x: number }>,
): FloatTensor {
  const [height = 1, width = 1] = image.shape.slice(-2);
  if (window.height === height && window.width === width) return image;
  const planes = image.data.length / (height * width);
  const data = new Float32Array(planes * window.height * window.width);
  for (let plane = 0; plane < planes; plane++) {
    for (let row = 0; row < window.height; row++) {
      const from = (plane * height + window.y + row) * width + window.x;
      const at = (plane * window.height + row) * window.width;
      data.set(image.data.subarray(from, from + window.width), at);
    }
  }
  return floatTensor([...image.shape.slice(0, -2), window.height, window.width], data);
}

/** [b, h, w, c] to [b, c, h, w]. */
export function toPlanes(image: FloatTensor): FloatTensor {
  const [batch = 1, height = 1, width = 1, channels = 1] = image.shape;
  return moveChannels(image, [batch, channels, height, width], "first");
}

/** [b, c, h, w] to [b, h, w, c]. */
export function toPixels(planes: FloatTensor): FloatTensor {
  const [batch = 1, channels = 1, height = 1, width = 1] = planes.shape;
  return moveChannels(planes, [batch, height, width, channels], "last");
}

function moveChannels(
  image: FloatTensor,
  shape: readonly [number, number, number, number],
  to: "first" | "last",
): FloatTensor {
  const channels = to === "first" ? shape[1] : shape[3];
  const cells = to === "first" ? shape[2] * shape[3] : shape[1] * shape[2];
  const data = new Float32Array(image.data.length);
  for (let row = 0; row < shape[0]; row++) {
    const begin = row * channels * cells;
    for (let cell = 0; cell < cells; cell++) {
      for (let channel = 0; channel < channels; channel++) {
        const planar = begin + channel * cells + cell;
        const pixel = begin + cell * channels + channel;
        if (to === "first") data[planar] = image.data[pixel] ?? 0;
        else data[pixel] = image.data[planar] ?? 0;
      }
    }
  }
  return floatTensor(shape, data);
}
