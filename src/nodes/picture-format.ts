/** What a picture file is, and its size before anything is unpacked. */
import { LunaError } from "../kernel/index.ts";
import { IMAGE_BYTES_MAX, IMAGE_PIXELS_MAX } from "./limits.ts";

/** A picture's pixels as files have them. */
export type PictureFile = Readonly<{
  width: number;
  height: number;
  /** Red, green, blue and opacity of each pixel, 0..255. */
  data: Uint8ClampedArray;
  /** False where the file has no transparency at all. */
  hasAlpha: boolean;
}>;

export function unreadable(name: string, why: string, cause?: unknown): LunaError {
  return new LunaError("FILE_UNREADABLE", `"${name}" ${why}.`, { cause });
}

export function checkSize(width: number, height: number, name: string): void {
  if (width * height <= IMAGE_PIXELS_MAX) return;
  throw new LunaError(
    "LIMIT_EXCEEDED",
    `"${name}" has ${width}x${height} pixels, limit ${IMAGE_PIXELS_MAX}.`,
  );
}

export type PictureFormat = "png" | "jpeg" | "webp";

/** By the first bytes; the name says nothing. Throws FILE_UNREADABLE for other files. */
export function formatOf(bytes: Uint8Array, name: string): PictureFormat {
  if (bytes.byteLength > IMAGE_BYTES_MAX) {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `"${name}" has ${bytes.byteLength} bytes, limit ${IMAGE_BYTES_MAX}.`,
    );
  }
  const text = Buffer.from(bytes.subarray(0, 12)).toString("latin1");
  if (text.startsWith("\x89PNG")) return "png";
  if (text.startsWith("\xff\xd8\xff")) return "jpeg";
  if (text.startsWith("RIFF") && text.endsWith("WEBP")) return "webp";
  throw unreadable(name, "is no PNG, JPEG or WebP picture");
}

type Facts = Readonly<{ width: number; height: number; hasAlpha: boolean }>;

/** Start-of-frame markers: 0xc0 to 0xcf without tables (c4), extensions (c8) and conditioning (cc). */
const isFrame = (marker: number) =>
  marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);

/** Walks JPEG's segments to its frame header (ITU T.81, section B.2.2). */
export function jpegFacts(bytes: Uint8Array, name: string): Facts {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 2; at + 9 <= view.byteLength; at += 2 + view.getUint16(at + 2)) {
    if (view.getUint8(at) !== 0xff) break;
    if (!isFrame(view.getUint8(at + 1))) continue;
    return { height: view.getUint16(at + 5), width: view.getUint16(at + 7), hasAlpha: false };
  }
  throw unreadable(name, "is a JPEG picture without a frame");
}

/** The first chunk says the size (RFC 9649, sections 2.5 to 2.7). */
export function webpFacts(bytes: Uint8Array, name: string): Facts {
  if (bytes.byteLength < 30) throw unreadable(name, "is a WebP picture cut off in its header");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const uint24 = (at: number) => view.getUint16(at, true) + 65_536 * view.getUint8(at + 2);
  switch (Buffer.from(bytes.subarray(12, 16)).toString("latin1")) {
    case "VP8X": {
      const hasAlpha = (view.getUint8(20) & 0x10) !== 0;
      return { width: uint24(24) + 1, height: uint24(27) + 1, hasAlpha };
    }
    case "VP8L": {
      const bits = view.getUint32(21, true);
      const side = (shift: number) => ((bits >>> shift) & 0x3fff) + 1;
      return { width: side(0), height: side(14), hasAlpha: ((bits >>> 28) & 1) === 1 };
    }
    case "VP8 ": {
      const side = (at: number) => view.getUint16(at, true) & 0x3fff;
      return { width: side(26), height: side(28), hasAlpha: false };
    }
    default:
      throw unreadable(name, "is a WebP picture whose first chunk is unknown");
  }
}
