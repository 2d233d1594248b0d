/** JPEG and WebP by Squoosh's codecs (mozjpeg, libwebp), WebAssembly that is loaded for its first picture. */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

export type Pixels = Readonly<{ width: number; height: number; data: Uint8ClampedArray }>;

type Decode = (bytes: ArrayBuffer, options?: Record<string, unknown>) => Promise<Pixels>;
type Encode = (pixels: Pixels, options: { quality: number }) => Promise<ArrayBuffer>;
type Codec<Run> = Readonly<{
  default: Run;
  init: (module: unknown, options: Record<string, unknown>) => Promise<unknown>;
}>;

/** The decoders make the browser's class of pixels, which Node lacks. */
class BrowserPixels {
  readonly data: Uint8ClampedArray;
  readonly width: number;
  readonly height: number;

  constructor(data: Uint8ClampedArray, width: number, height: number) {
    this.data = data;
    this.width = width;
    this.height = height;
  }
}

const loaded = new Map<string, Promise<unknown>>();

/** `module` exports the function, `wasm` is what it runs; both are loaded once. */
async function load<Run>(module: string, wasm: string): Promise<Run> {
  const known = loaded.get(module) ?? loadCodec<Run>(module, wasm);
  loaded.set(module, known);
  return known as Promise<Run>;
}

async function loadCodec<Run>(module: string, wasm: string): Promise<Run> {
  // Neither is in the types of Node and ES2023.
  const scope = globalThis as unknown as {
    ImageData?: unknown;
    WebAssembly: { compile(bytes: Uint8Array): Promise<unknown> };
  };
  scope.ImageData ??= BrowserPixels;
  // Their typings need the DOM's; Codec has the parts that are used.
  const codec = (await import(module)) as Codec<Run>;
  const bytes = await readFile(createRequire(import.meta.url).resolve(wasm));
  const quiet = () => undefined;
  await codec.init(await scope.WebAssembly.compile(bytes), { print: quiet, printErr: quiet });
  return codec.default;
}

/** A picture that lies on its side is turned as its EXIF data say. */
export async function decodeJpeg(bytes: ArrayBuffer): Promise<Pixels> {
  const codec = "@jsquash/jpeg/codec/dec/mozjpeg_dec.wasm";
  return (await load<Decode>("@jsquash/jpeg/decode.js", codec))(bytes, {
    preserveOrientation: true,
  });
}

export async function decodeWebp(bytes: ArrayBuffer): Promise<Pixels> {
  const codec = "@jsquash/webp/codec/dec/webp_dec.wasm";
  return (await load<Decode>("@jsquash/webp/decode.js", codec))(bytes);
}

/** `quality` 0..100. Transparency is dropped, as Pillow drops it. */
export async function encodeJpeg(pixels: Pixels, quality: number): Promise<Uint8Array> {
  const codec = "@jsquash/jpeg/codec/enc/mozjpeg_enc.wasm";
  const encode = await load<Encode>("@jsquash/jpeg/encode.js", codec);
  return new Uint8Array(await encode(pixels, { quality }));
}

export async function encodeWebp(pixels: Pixels, quality: number): Promise<Uint8Array> {
  const codec = "@jsquash/webp/codec/enc/webp_enc_simd.wasm";
  const encode = await load<Encode>("@jsquash/webp/encode.js", codec);
  return new Uint8Array(await encode(pixels, { quality }));
}
