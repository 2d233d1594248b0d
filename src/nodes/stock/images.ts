import { createHash, randomInt, randomUUID } from "node:crypto";
import { LunaError } from "../../kernel/index.ts";
import { floatTensor } from "../../tensor/index.ts";
import { BATCH_MAX, RESOLUTION_MAX, SAVE_ATTEMPTS_MAX, VALUES_MAX } from "../limits.ts";
import type { NodeContext, OutputType, SavedFile } from "../node-context.ts";
import { defineNode, type NodeResult, output } from "../node-definition.ts";
import { nextCounter, parsePrefix, pictureName } from "../output-name.ts";
import { readPictureFile, toPicture } from "../picture-file.ts";
import { encodePng } from "../png.ts";
import {
  CROP_METHODS,
  IMAGE_METHODS,
  roundHalfEven,
  toPixels,
  toPlanes,
  upscale,
} from "../upscale.ts";
import type { SocketValues } from "../values.ts";

async function readPicture(image: string, context: Pick<NodeContext, "readInputImage">) {
  const bytes = await context.readInputImage(image);
  if (bytes === undefined) {
    throw new LunaError("FILE_UNREADABLE", `There is no picture "${image}" in the input folder.`);
  }
  return bytes;
}

const loadImage = defineNode({
  name: "LoadImage",
  displayName: "Load Image",
  category: "image",
  description: "A PNG, JPEG or WebP picture of the input folder and its transparency as a mask.",
  inputs: { image: { type: "COMBO", choices: "input images", isOpen: true } },
  outputs: [output("IMAGE"), output("MASK")],
  changeKey: async ({ image }, context) =>
    createHash("sha256")
      .update(await readPicture(String(image), context))
      .digest("hex"),
  check: async ({ image }, services) => {
    if (image === undefined) return [];
    if ((await services.readInputImage(String(image))) !== undefined) return [];
    return [["image", `Invalid image file: ${image}`]];
  },
  async run({ image }, context) {
    const file = await readPictureFile(await readPicture(image, context), image);
    const picture = toPicture(file);
    return { outputs: [picture.image, picture.mask] };
  },
});

const METHOD = { type: "COMBO", choices: IMAGE_METHODS } as const;
const side = (min: number) =>
  ({ type: "INT", default: 512, min, max: RESOLUTION_MAX, step: 1 }) as const;

const imageScale = defineNode({
  name: "ImageScale",
  displayName: "Upscale Image",
  category: "image/upscaling",
  inputs: {
    image: { type: "IMAGE" },
    upscale_method: METHOD,
    width: side(0),
    height: side(0),
    crop: { type: "COMBO", choices: CROP_METHODS },
  },
  outputs: [output("IMAGE")],
  run({ image, upscale_method: method, width, height, crop }) {
    if (width === 0 && height === 0) return { outputs: [image] };
    const [, rows = 1, columns = 1] = image.shape;
    // 0 keeps the proportion.
    const to = {
      height: height || Math.max(1, roundHalfEven((rows * width) / columns)),
      width: width || Math.max(1, roundHalfEven((columns * height) / rows)),
    };
    const scaled = upscale(toPlanes(image), to, { method, isCropped: crop === "center" });
    return { outputs: [toPixels(scaled)] };
  },
});

const imageScaleBy = defineNode({
  name: "ImageScaleBy",
  displayName: "Upscale Image By",
  category: "image/upscaling",
  inputs: {
    image: { type: "IMAGE" },
    upscale_method: METHOD,
    scale_by: { type: "FLOAT", default: 1, min: 0.01, max: 8, step: 0.01 },
  },
  outputs: [output("IMAGE")],
  run({ image, upscale_method: method, scale_by }) {
    const [, rows = 1, columns = 1] = image.shape;
    const to = { height: roundHalfEven(rows * scale_by), width: roundHalfEven(columns * scale_by) };
    return { outputs: [toPixels(upscale(toPlanes(image), to, { method }))] };
  },
});

const emptyImage = defineNode({
  name: "EmptyImage",
  displayName: "EmptyImage",
  category: "image",
  inputs: {
    width: side(1),
    height: side(1),
    batch_size: { type: "INT", default: 1, min: 1, max: BATCH_MAX },
    color: { type: "INT", default: 0, min: 0, max: 0xffffff, step: 1 },
  },
  outputs: [output("IMAGE")],
  run({ width, height, batch_size, color }) {
    const values = batch_size * height * width * 3;
    if (values > VALUES_MAX) {
      throw new LunaError(
        "LIMIT_EXCEEDED",
        `${batch_size} pictures of ${width}x${height} are ${values} values, limit ${VALUES_MAX}.`,
      );
    }
    const rgb = [16, 8, 0].map((shift) => ((color >> shift) & 0xff) / 0xff);
    const data = Float32Array.from({ length: values }, (_, i) => rgb[i % 3] ?? 0);
    return { outputs: [floatTensor([batch_size, height, width, 3], data)] };
  },
});

type SaveOptions = Readonly<{ prefix: string; type: OutputType; level: number }>;

/** Writes a batch under the next free names; other instances may write into the same folder. */
async function saveImages(
  images: SocketValues["IMAGE"],
  { prefix, type, level }: SaveOptions,
  context: NodeContext,
): Promise<NodeResult> {
  const [count = 0, height = 0, width = 0] = images.shape;
  const { subfolder, filename } = parsePrefix(prefix, { width, height, nowMs: context.now() });
  let counter = nextCounter(filename, await context.listOutputs(type, subfolder));
  const saved: SavedFile[] = [];
  for (let index = 0; index < count; index++) {
    const bytes = encodePng(images, index, { text: context.metadata(), level });
    const base = filename.replaceAll("%batch_num%", String(index));
    const last = counter + SAVE_ATTEMPTS_MAX;
    for (;;) {
      const file: SavedFile = { filename: pictureName(base, counter++), subfolder, type };
      if (await context.writeOutput(file, bytes)) {
        saved.push(file);
        break;
      }
      if (counter > last) {
        throw new LunaError(
          "INTERNAL",
          `No free file name after "${file.filename}": ${SAVE_ATTEMPTS_MAX} were taken.`,
        );
      }
    }
  }
  return { outputs: [], ui: { images: saved } };
}

const saveImage = defineNode({
  name: "SaveImage",
  displayName: "Save Image",
  category: "image",
  description: "Writes PNG files with the prompt inside into the output folder.",
  isOutput: true,
  inputs: {
    images: { type: "IMAGE" },
    filename_prefix: { type: "STRING", default: "ComfyUI" },
  },
  outputs: [],
  run: ({ images, filename_prefix: prefix }, context) =>
    saveImages(images, { prefix, type: "output", level: 4 }, context),
});

const PREVIEW_LETTERS = "abcdefghijklmnopqrstupvxyz";
/** Keeps previews of several processes apart, as ComfyUI does. */
const previewPrefix = `ComfyUI_temp_${Array.from(
  { length: 5 },
  () => PREVIEW_LETTERS[randomInt(PREVIEW_LETTERS.length)],
).join("")}`;

const previewImage = defineNode({
  name: "PreviewImage",
  displayName: "Preview Image",
  category: "image",
  isOutput: true,
  inputs: { images: { type: "IMAGE" } },
  outputs: [],
  run: ({ images }, context) =>
    saveImages(images, { prefix: previewPrefix, type: "temp", level: 1 }, context),
});

const saveImageWebsocket = defineNode({
  name: "SaveImageWebsocket",
  displayName: "SaveImageWebsocket",
  category: "api/image",
  description: "Sends pictures to the client as PNG messages; writes no file.",
  isOutput: true,
  inputs: { images: { type: "IMAGE" } },
  outputs: [],
  // The client wants to be sent them each time.
  changeKey: async () => randomUUID(),
  run({ images }, context) {
    const [max = 0] = images.shape;
    for (let value = 0; value < max; value++) {
      context.progress({ value, max, picture: encodePng(images, value, { level: 1 }) });
    }
    return { outputs: [] };
  },
});

export const IMAGE_NODES = [
  loadImage,
  imageScale,
  imageScaleBy,
  emptyImage,
  saveImage,
  previewImage,
  saveImageWebsocket,
];
