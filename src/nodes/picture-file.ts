/** Picture files in and out: PNG, JPEG, WebP. */
import { PNG } from "pngjs";
import { LunaError } from "../kernel/index.ts";
import { type FloatTensor, floatTensor } from "../tensor/index.ts";
import { decodeJpeg, decodeWebp, encodeJpeg, encodeWebp } from "./picture-codecs.ts";
import {
  checkSize,
  formatOf,
  jpegFacts,
  type PictureFile,
  unreadable,
  webpFacts,
} from "./picture-format.ts";
import { decodePng } from "./png.ts";

/** Throws FILE_UNREADABLE for what is no sound PNG, JPEG or WebP, LIMIT_EXCEEDED for a huge one. */
export async function readPictureFile(bytes: Uint8Array, name: string): Promise<PictureFile> {
  const format = formatOf(bytes, name);
  if (format === "png") return decodePng(bytes, name);
  const { width, height, hasAlpha } = (format === "jpeg" ? jpegFacts : webpFacts)(bytes, name);
  checkSize(width, height, name);
  const decode = format === "jpeg" ? decodeJpeg : decodeWebp;
  try {
    const pixels = await decode(new Uint8Array(bytes).buffer);
    return { width: pixels.width, height: pixels.height, data: pixels.data, hasAlpha };
  } catch (cause) {
    throw unreadable(name, `is a broken ${format.toUpperCase()} picture`, cause);
  }
}

export type Picture = Readonly<{
  /** [1, h, w, 3], 0..1 */
  image: FloatTensor;
  /** [1, h, w], 1 where the picture is transparent; [1, 64, 64] of zeros without transparency. */
  mask: FloatTensor;
}>;

/** ComfyUI's mask of a picture without transparency. */
const NO_MASK_SIZE = 64;

/** As LoadImage gives it. */
export function toPicture({ width, height, data, hasAlpha }: PictureFile): Picture {
  const pixels = width * height;
  const image = new Float32Array(pixels * 3);
  const mask = hasAlpha ? new Float32Array(pixels) : new Float32Array(NO_MASK_SIZE ** 2);
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) image[i * 3 + c] = (data[i * 4 + c] ?? 0) / 255;
    if (hasAlpha) mask[i] = 1 - Math.fround((data[i * 4 + 3] ?? 0) / 255);
  }
  const maskSize = hasAlpha ? [height, width] : [NO_MASK_SIZE, NO_MASK_SIZE];
  return {
    image: floatTensor([1, height, width, 3], image),
    mask: floatTensor([1, ...maskSize], mask),
  };
}

/** What `/view?channel=` gives: colours without transparency, or transparency alone over black. */
export function pickChannel(picture: PictureFile, channel: "rgb" | "a"): PictureFile {
  const data = picture.data.slice();
  for (let i = 0; i < data.length; i += 4) {
    if (channel === "rgb") data[i + 3] = 255;
    else data.fill(0, i, i + 3);
  }
  return { ...picture, data, hasAlpha: channel === "a" };
}

/** The picture with the transparency of another one of the same size, as a mask editor sends it. */
export function withAlphaOf(picture: PictureFile, mask: PictureFile): PictureFile {
  if (picture.width !== mask.width || picture.height !== mask.height) {
    throw new LunaError(
      "REQUEST_INVALID",
      `The mask is ${mask.width}x${mask.height}, its picture ${picture.width}x${picture.height}.`,
    );
  }
  const data = picture.data.slice();
  for (let i = 3; i < data.length; i += 4) data[i] = mask.data[i] ?? 0;
  return { ...picture, data, hasAlpha: true };
}

export function toPngFile({ width, height, data, hasAlpha }: PictureFile): Uint8Array {
  const png = new PNG({ width, height });
  png.data = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const colorType = hasAlpha ? 6 : 2;
  return PNG.sync.write(png, { colorType, inputHasAlpha: true, deflateLevel: 4 });
}

/** `quality` 0..100; JPEG drops the transparency. */
export function toSmallFile(
  picture: PictureFile,
  format: "jpeg" | "webp",
  quality: number,
): Promise<Uint8Array> {
  return format === "jpeg" ? encodeJpeg(picture, quality) : encodeWebp(picture, quality);
}
