/** Transparency of PNG files: one part of a picture alone, and masks painted in an editor. */
import { PNG } from "pngjs";
import { LunaError } from "../kernel/index.ts";
import { decodePng } from "./png.ts";

/** Colours without transparency, or transparency alone over black. Throws FILE_UNREADABLE. */
export function pngChannel(bytes: Uint8Array, channel: "rgb" | "a", name: string): Uint8Array {
  const picture = read(bytes, name);
  for (let i = 0; i < picture.data.length; i += 4) {
    if (channel === "rgb") picture.data[i + 3] = 255;
    else picture.data.fill(0, i, i + 3);
  }
  return write(picture, channel === "rgb" ? 2 : 6);
}

/** The picture with the transparency of another one of the same size, as a mask editor sends it. */
export function withAlphaOf(original: Uint8Array, mask: Uint8Array): Uint8Array {
  const [picture, alpha] = [read(original, "original_ref"), read(mask, "image")];
  if (picture.width !== alpha.width || picture.height !== alpha.height) {
    throw new LunaError(
      "REQUEST_INVALID",
      `The mask is ${alpha.width}x${alpha.height}, its picture ${picture.width}x${picture.height}.`,
    );
  }
  for (let i = 3; i < picture.data.length; i += 4) picture.data[i] = alpha.data[i] ?? 0;
  return write(picture, 6);
}

function read(bytes: Uint8Array, name: string): PNG {
  decodePng(bytes, name); // Says what is wrong with a file, and refuses huge ones.
  return PNG.sync.read(Buffer.from(bytes));
}

function write(picture: PNG, colorType: 2 | 6): Uint8Array {
  return PNG.sync.write(picture, { colorType, inputHasAlpha: true, deflateLevel: 4 });
}
