import { LunaError } from "../../kernel/index.ts";
import { floatTensor } from "../../tensor/index.ts";
import { RESOLUTION_MAX } from "../limits.ts";
import { defineNode, output } from "../node-definition.ts";

const maskToImage = defineNode({
  name: "MaskToImage",
  displayName: "Convert Mask to Image",
  category: "mask",
  inputs: { mask: { type: "MASK" } },
  outputs: [output("IMAGE")],
  run({ mask }) {
    const [height = 1, width = 1] = mask.shape.slice(-2);
    const rows = mask.data.length / (height * width);
    const data = Float32Array.from(
      { length: mask.data.length * 3 },
      (_, i) => mask.data[Math.floor(i / 3)] ?? 0,
    );
    return { outputs: [floatTensor([rows, height, width, 3], data)] };
  },
});

const CHANNELS = ["red", "green", "blue", "alpha"] as const;

const imageToMask = defineNode({
  name: "ImageToMask",
  displayName: "Convert Image to Mask",
  category: "mask",
  inputs: { image: { type: "IMAGE" }, channel: { type: "COMBO", choices: CHANNELS } },
  outputs: [output("MASK")],
  run({ image, channel }) {
    const [rows = 1, height = 1, width = 1, channels = 3] = image.shape;
    const index = (CHANNELS as readonly string[]).indexOf(channel);
    if (index >= channels) {
      throw new LunaError(
        "REQUEST_INVALID",
        `The picture has no ${channel}: ${channels} channels.`,
      );
    }
    const data = Float32Array.from(
      { length: rows * height * width },
      (_, i) => image.data[i * channels + index] ?? 0,
    );
    return { outputs: [floatTensor([rows, height, width], data)] };
  },
});

type Plane = Readonly<{ data: Float32Array; width: number; height: number }>;

/** One pixel wider or, with `pick` Math.min, narrower. Beyond the border the picture is mirrored. */
function growOnce(
  { data, width, height }: Plane,
  pick: typeof Math.max,
  hasCorners: boolean,
): Float32Array {
  return data.map((_, i) => {
    const [y, x] = [Math.floor(i / width), i % width];
    const [above, below] = [Math.max(y - 1, 0), Math.min(y + 1, height - 1)];
    const [left, right] = [Math.max(x - 1, 0), Math.min(x + 1, width - 1)];
    const at = (row: number, column: number) => data[row * width + column] ?? 0;
    const cross = pick(at(y, x), at(above, x), at(below, x), at(y, left), at(y, right));
    if (!hasCorners) return cross;
    return pick(cross, at(above, left), at(above, right), at(below, left), at(below, right));
  });
}

const growMask = defineNode({
  name: "GrowMask",
  displayName: "Grow Mask",
  category: "mask",
  description: "Widens a mask by so many pixels, or narrows it by a negative number.",
  inputs: {
    mask: { type: "MASK" },
    expand: { type: "INT", default: 0, min: -RESOLUTION_MAX, max: RESOLUTION_MAX, step: 1 },
    tapered_corners: { type: "BOOLEAN", default: true, isAdvanced: true },
  },
  outputs: [output("MASK")],
  run({ mask, expand, tapered_corners }, { signal }) {
    const [height = 1, width = 1] = mask.shape.slice(-2);
    const rows = mask.data.length / (height * width);
    const result = mask.data.slice();
    const pick = expand < 0 ? Math.min : Math.max;
    // Beyond the longer side there is nothing left to change.
    const count = Math.min(Math.abs(expand), Math.max(height, width) * 2);
    for (let row = 0; row < rows; row++) {
      const place = row * height * width;
      let data: Float32Array = result.slice(place, place + height * width);
      for (let i = 0; i < count; i++) {
        signal.throwIfAborted();
        data = growOnce({ data, width, height }, pick, !tapered_corners);
      }
      result.set(data, place);
    }
    return { outputs: [floatTensor([rows, height, width], result)] };
  },
});

export const MASK_NODES = [maskToImage, imageToMask, growMask];
