/** PNG in and out: pngjs for the pixels, text chunks by hand (https://www.w3.org/TR/png-3/#11tEXt). */
import { PNG } from "pngjs";
import type { FloatTensor } from "../tensor/index.ts";
import { checkSize, type PictureFile, unreadable } from "./picture-format.ts";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
/** Length, type and CRC around a chunk's data. */
const CHUNK_OVERHEAD = 12;
const HEADER_END = SIGNATURE.length + CHUNK_OVERHEAD + 13;
/** PNG colour types. */
const PALETTE = 3;
const GRAY_ALPHA = 4;
const RGB_ALPHA = 6;

/** Throws FILE_UNREADABLE for anything but a sound PNG, LIMIT_EXCEEDED for a huge one. */
export function decodePng(bytes: Uint8Array, name: string): PictureFile {
  const { width, height, hasAlpha } = inspectPng(bytes, name);
  const data = readPixels(hasAlpha ? bytes : withoutTransparentColor(bytes), name);
  return { width, height, data: new Uint8ClampedArray(data), hasAlpha };
}

/** Size and transparency from the first chunks, before anything is unpacked. */
function inspectPng(bytes: Uint8Array, name: string) {
  if (bytes.byteLength < HEADER_END || SIGNATURE.some((byte, i) => bytes[i] !== byte)) {
    throw unreadable(name, "is not a PNG picture");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  checkSize(width, height, name);
  const colorType = bytes[25];
  // A transparent colour of an opaque type is no alpha channel to Pillow; a palette's is.
  const hasAlpha =
    colorType === GRAY_ALPHA ||
    colorType === RGB_ALPHA ||
    (colorType === PALETTE && listChunks(bytes).some(({ type }) => type === "tRNS"));
  return { width, height, hasAlpha };
}

type Chunk = Readonly<{ type: string; begin: number; end: number }>;

/** The chunks as they say they lie; `end` may be beyond the file. */
function listChunks(bytes: Uint8Array): Chunk[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const chunks: Chunk[] = [];
  let begin = SIGNATURE.length;
  while (begin + CHUNK_OVERHEAD <= view.byteLength) {
    const codes = [4, 5, 6, 7].map((i) => view.getUint8(begin + i));
    const end = begin + CHUNK_OVERHEAD + view.getUint32(begin);
    chunks.push({ type: String.fromCharCode(...codes), begin, end });
    begin = end;
  }
  return chunks;
}

/** pngjs would paint pixels of the transparent colour black; Pillow leaves them as they are. */
function withoutTransparentColor(bytes: Uint8Array): Uint8Array {
  const chunk = listChunks(bytes).find(({ type }) => type === "tRNS");
  if (chunk === undefined) return bytes;
  return Buffer.concat([bytes.subarray(0, chunk.begin), bytes.subarray(chunk.end)]);
}

function readPixels(bytes: Uint8Array, name: string): Uint8Array {
  try {
    return PNG.sync.read(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)).data;
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw unreadable(name, `is a broken PNG picture: ${text}`, cause);
  }
}

export type EncodeOptions = Readonly<{
  /** Chunks [keyword, text]; text must be Latin-1. */
  text?: readonly (readonly [keyword: string, text: string])[];
  /** zlib's, 4 for results as ComfyUI has it. */
  level?: number;
}>;

/** Encodes picture `index` of [b, h, w, 3]: 255 times the value, cut off to whole numbers, as ComfyUI does. */
export function encodePng(
  images: FloatTensor,
  index: number,
  options: EncodeOptions = {},
): Uint8Array {
  const [, height = 0, width = 0] = images.shape;
  const values = width * height * 3;
  const data = Buffer.alloc(values);
  for (let i = 0; i < values; i++) {
    const value = Math.fround((images.data[index * values + i] ?? 0) * 255);
    data[i] = Math.trunc(Math.min(Math.max(value, 0), 255));
  }
  const png = new PNG({ width, height });
  png.data = data;
  const rgb = { colorType: 2, inputColorType: 2, inputHasAlpha: false, bitDepth: 8 } as const;
  const body = PNG.sync.write(png, { ...rgb, deflateLevel: options.level ?? 4 });
  const chunks = (options.text ?? []).map(([keyword, text]) => textChunk(keyword, text));
  return Buffer.concat([body.subarray(0, HEADER_END), ...chunks, body.subarray(HEADER_END)]);
}

function textChunk(keyword: string, text: string): Uint8Array {
  const data = Buffer.from(`tEXt${keyword}\0${text}`, "latin1");
  const chunk = Buffer.alloc(data.byteLength + 8);
  chunk.writeUInt32BE(data.byteLength - 4, 0);
  data.copy(chunk, 4);
  chunk.writeUInt32BE(crc32(data), data.byteLength + 4);
  return chunk;
}

/** Text chunks of a PNG file in order, such as the prompt that made it. */
export function readPngText(bytes: Uint8Array): [keyword: string, text: string][] {
  const found: [string, string][] = [];
  for (const { type, begin, end } of listChunks(bytes)) {
    if (type !== "tEXt") continue;
    const data = Buffer.from(bytes.subarray(begin + 8, end - 4)).toString("latin1");
    const split = data.indexOf("\0");
    if (split > 0) found.push([data.slice(0, split), data.slice(split + 1)]);
  }
  return found;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let crc = n;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (CRC_TABLE[(crc ^ byte) & 0xff] ?? 0) ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
