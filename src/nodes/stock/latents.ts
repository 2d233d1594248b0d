import { LunaError } from "../../kernel/index.ts";
import { elementCount, floatTensor } from "../../tensor/index.ts";
import { BATCH_MAX, RESOLUTION_MAX, VALUES_MAX } from "../limits.ts";
import { defineNode, output } from "../node-definition.ts";
import { CROP_METHODS, LATENT_METHODS, roundHalfEven, upscale } from "../upscale.ts";

/** Latent channels of every family that is served. */
const CHANNELS = 4;
/** Pixels of one latent cell. */
const CELL = 8;
/** Smallest side that LatentUpscale makes, in pixels, as in ComfyUI. */
const UPSCALE_MIN = 64;

const emptyLatentImage = defineNode({
  name: "EmptyLatentImage",
  displayName: "Empty Latent Image",
  category: "latent",
  inputs: {
    width: { type: "INT", default: 512, min: 16, max: RESOLUTION_MAX, step: 8 },
    height: { type: "INT", default: 512, min: 16, max: RESOLUTION_MAX, step: 8 },
    batch_size: { type: "INT", default: 1, min: 1, max: BATCH_MAX },
  },
  outputs: [output("LATENT")],
  run({ width, height, batch_size }) {
    const shape = [batch_size, CHANNELS, Math.floor(height / CELL), Math.floor(width / CELL)];
    const values = elementCount(shape);
    if (values > VALUES_MAX) {
      throw new LunaError(
        "LIMIT_EXCEEDED",
        `${batch_size} latents of ${width}x${height} pixels are ${values} values, limit ${VALUES_MAX}.`,
      );
    }
    return { outputs: [{ samples: floatTensor(shape) }] };
  },
});

const latentUpscale = defineNode({
  name: "LatentUpscale",
  displayName: "Upscale Latent",
  category: "latent",
  inputs: {
    samples: { type: "LATENT" },
    upscale_method: { type: "COMBO", choices: LATENT_METHODS },
    width: { type: "INT", default: 512, min: 0, max: RESOLUTION_MAX, step: 8 },
    height: { type: "INT", default: 512, min: 0, max: RESOLUTION_MAX, step: 8 },
    crop: { type: "COMBO", choices: CROP_METHODS },
  },
  outputs: [output("LATENT")],
  run({ samples: latent, upscale_method: method, width, height, crop }) {
    if (width === 0 && height === 0) return { outputs: [latent] };
    const [, , rows = 1, columns = 1] = latent.samples.shape;
    // 0 keeps the proportion.
    const high = Math.max(
      UPSCALE_MIN,
      height || roundHalfEven((rows * Math.max(UPSCALE_MIN, width)) / columns),
    );
    const wide = Math.max(
      UPSCALE_MIN,
      width || roundHalfEven((columns * Math.max(UPSCALE_MIN, height)) / rows),
    );
    const to = { height: Math.floor(high / CELL), width: Math.floor(wide / CELL) };
    const samples = upscale(latent.samples, to, { method, isCropped: crop === "center" });
    return { outputs: [{ ...latent, samples }] };
  },
});

const latentUpscaleBy = defineNode({
  name: "LatentUpscaleBy",
  displayName: "Upscale Latent By",
  category: "latent",
  inputs: {
    samples: { type: "LATENT" },
    upscale_method: { type: "COMBO", choices: LATENT_METHODS },
    scale_by: { type: "FLOAT", default: 1.5, min: 0.01, max: 8, step: 0.01 },
  },
  outputs: [output("LATENT")],
  run({ samples: latent, upscale_method: method, scale_by }) {
    const [, , rows = 1, columns = 1] = latent.samples.shape;
    const to = { height: roundHalfEven(rows * scale_by), width: roundHalfEven(columns * scale_by) };
    return { outputs: [{ ...latent, samples: upscale(latent.samples, to, { method }) }] };
  },
});

const setLatentNoiseMask = defineNode({
  name: "SetLatentNoiseMask",
  displayName: "Set Latent Noise Mask",
  category: "latent/inpaint",
  inputs: { samples: { type: "LATENT" }, mask: { type: "MASK" } },
  outputs: [output("LATENT")],
  run({ samples: latent, mask }) {
    const [height = 1, width = 1] = mask.shape.slice(-2);
    const rows = mask.data.length / (height * width);
    const noiseMask = floatTensor([rows, 1, height, width], mask.data);
    return { outputs: [{ ...latent, noiseMask }] };
  },
});

export const LATENT_NODES = [emptyLatentImage, latentUpscale, latentUpscaleBy, setLatentNoiseMask];
