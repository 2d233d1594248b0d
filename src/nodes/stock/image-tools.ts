import { LunaError } from "../../kernel/index.ts";
import { type FloatTensor, floatTensor } from "../../tensor/index.ts";
import { BATCH_MAX, RESOLUTION_MAX, VALUES_MAX } from "../limits.ts";
import { defineNode, output } from "../node-definition.ts";
import { crop, toPixels, toPlanes, upscale } from "../upscale.ts";

function checkValues(values: number): void {
  if (values <= VALUES_MAX) return;
  throw new LunaError("LIMIT_EXCEEDED", `A batch has ${values} values, limit ${VALUES_MAX}.`);
}

/** [a, h, w, c] and [b, h, w, c] to [a + b, h, w, c]. */
function joinBatches(parts: readonly FloatTensor[]): FloatTensor {
  const [, ...rest] = parts[0]?.shape ?? [];
  const rows = parts.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0);
  const joined = floatTensor([rows, ...rest]);
  let end = 0;
  for (const { data } of parts) {
    joined.data.set(data, end);
    end += data.length;
  }
  return joined;
}

function fitTo(image: FloatTensor, like: FloatTensor, method: "bilinear" | "bicubic"): FloatTensor {
  const [, height = 1, width = 1] = like.shape;
  if (image.shape[1] === height && image.shape[2] === width) return image;
  return toPixels(upscale(toPlanes(image), { height, width }, { method, isCropped: true }));
}

const imageBatch = defineNode({
  name: "ImageBatch",
  displayName: "Batch Images",
  category: "image",
  description: "Both in one batch; the second is brought to the size of the first.",
  inputs: { image1: { type: "IMAGE" }, image2: { type: "IMAGE" } },
  outputs: [output("IMAGE")],
  run: ({ image1, image2 }) => ({
    outputs: [joinBatches([image1, fitTo(image2, image1, "bilinear")])],
  }),
});

const imageInvert = defineNode({
  name: "ImageInvert",
  displayName: "Invert Image",
  category: "image",
  inputs: { image: { type: "IMAGE" } },
  outputs: [output("IMAGE")],
  run: ({ image }) => ({
    outputs: [{ ...image, data: image.data.map((value) => 1 - value) }],
  }),
});

/** Blend formulas of the W3C's Compositing and Blending, a below and b above. */
const BLENDS: Readonly<Record<string, (a: number, b: number) => number>> = {
  normal: (_a, b) => b,
  multiply: (a, b) => a * b,
  screen: (a, b) => 1 - (1 - a) * (1 - b),
  overlay: (a, b) => (a <= 0.5 ? 2 * a * b : 1 - 2 * (1 - a) * (1 - b)),
  soft_light: (a, b) =>
    b <= 0.5 ? a - (1 - 2 * b) * a * (1 - a) : a + (2 * b - 1) * (softened(a) - a),
  difference: (a, b) => a - b,
};

function softened(a: number): number {
  return a <= 0.25 ? ((16 * a - 12) * a + 4) * a : Math.sqrt(a);
}

const imageBlend = defineNode({
  name: "ImageBlend",
  displayName: "Image Blend",
  category: "image/postprocessing",
  inputs: {
    image1: { type: "IMAGE" },
    image2: { type: "IMAGE" },
    blend_factor: { type: "FLOAT", default: 0.5, min: 0, max: 1, step: 0.01 },
    blend_mode: { type: "COMBO", choices: Object.keys(BLENDS) },
  },
  outputs: [output("IMAGE")],
  run({ image1, image2, blend_factor: factor, blend_mode }) {
    const above = fitTo(image2, image1, "bicubic").data;
    const blend = BLENDS[blend_mode] ?? ((_a: number, b: number) => b);
    const rows = image1.data.length;
    // One picture may be blended over a whole batch.
    if (rows % above.length !== 0) {
      throw new LunaError("REQUEST_INVALID", "The batches of image1 and image2 differ.");
    }
    const data = image1.data.map((a, i) => {
      const blended = blend(a, above[i % above.length] ?? 0);
      return Math.min(Math.max(a * (1 - factor) + blended * factor, 0), 1);
    });
    return { outputs: [{ ...image1, data }] };
  },
});

const PLACE = { type: "INT", default: 0, min: 0, max: RESOLUTION_MAX, step: 1 } as const;
const SIDE = { type: "INT", default: 512, min: 1, max: RESOLUTION_MAX, step: 1 } as const;

const imageCrop = defineNode({
  name: "ImageCrop",
  displayName: "Image Crop (Deprecated)",
  category: "image/transform",
  inputs: { image: { type: "IMAGE" }, width: SIDE, height: SIDE, x: PLACE, y: PLACE },
  outputs: [output("IMAGE")],
  run({ image, width, height, x, y }) {
    const [, rows = 1, columns = 1] = image.shape;
    const [left, top] = [Math.min(x, columns - 1), Math.min(y, rows - 1)];
    const window = {
      x: left,
      y: top,
      width: Math.min(width, columns - left),
      height: Math.min(height, rows - top),
    };
    return { outputs: [toPixels(crop(toPlanes(image), window))] };
  },
});

const rebatchImages = defineNode({
  name: "RebatchImages",
  displayName: "Rebatch Images",
  category: "image/batch",
  description: "Cuts all pictures into batches of one size; what follows runs once for each.",
  isInputList: true,
  inputs: {
    images: { type: "IMAGE" },
    batch_size: { type: "INT", default: 1, min: 1, max: BATCH_MAX },
  },
  outputs: [{ type: "IMAGE", name: "IMAGE", isList: true }],
  run(inputs) {
    // Inputs of this node are lists.
    const { images, batch_size } = inputs as unknown as {
      images: readonly FloatTensor[];
      batch_size: readonly number[];
    };
    const singles = images.flatMap(splitBatch);
    const size = batch_size[0] ?? 1;
    const count = Math.ceil(singles.length / size);
    const batches = Array.from({ length: count }, (_, index) =>
      joinBatches(singles.slice(index * size, (index + 1) * size)),
    );
    return { outputs: [batches] };
  },
});

function splitBatch({ shape, data }: FloatTensor): FloatTensor[] {
  const [rows = 0, ...rest] = shape;
  const length = data.length / Math.max(rows, 1);
  return Array.from({ length: rows }, (_, row) =>
    floatTensor([1, ...rest], data.subarray(row * length, (row + 1) * length)),
  );
}

const BORDER = { type: "INT", default: 0, min: 0, max: RESOLUTION_MAX, step: 8 } as const;

const imagePadForOutpaint = defineNode({
  name: "ImagePadForOutpaint",
  displayName: "Pad Image for Outpainting",
  category: "image",
  description: "Grey borders around a picture, and a mask of them that fades into the picture.",
  inputs: {
    image: { type: "IMAGE" },
    left: BORDER,
    top: BORDER,
    right: BORDER,
    bottom: BORDER,
    feathering: { ...BORDER, default: 40, step: 1, isAdvanced: true },
  },
  outputs: [output("IMAGE"), output("MASK")],
  run({ image, feathering, ...borders }) {
    const [batch = 1, rows = 1, columns = 1] = image.shape;
    const { left, top } = borders;
    const [height, width] = [rows + top + borders.bottom, columns + left + borders.right];
    checkValues(batch * height * width * 3);
    const padded = floatTensor([batch, height, width, 3]);
    padded.data.fill(GREY);
    const mask = floatTensor([1, height, width]);
    mask.data.fill(1);
    for (let row = 0; row < batch * rows; row++) {
      const y = Math.floor(row / rows) * height + top + (row % rows);
      const source = image.data.subarray(row * columns * 3, (row + 1) * columns * 3);
      padded.data.set(source, (y * width + left) * 3);
    }
    const fades = feathering * 2 < rows && feathering * 2 < columns ? feathering : 0;
    for (let i = 0; i < rows * columns; i++) {
      const [y, x] = [Math.floor(i / columns), i % columns];
      const distance = Math.min(
        top > 0 ? y : rows,
        borders.bottom > 0 ? rows - y : rows,
        left > 0 ? x : columns,
        borders.right > 0 ? columns - x : columns,
      );
      const share = distance < fades ? (fades - distance) / fades : 0;
      mask.data[(y + top) * width + left + x] = share * share;
    }
    return { outputs: [padded, mask] };
  },
});
/** What is to be painted over. */
const GREY = 0.5;

export const IMAGE_TOOL_NODES = [
  imageBatch,
  imageInvert,
  imageBlend,
  imageCrop,
  imagePadForOutpaint,
  rebatchImages,
];
