/** Areas and masks of prompts, in latent cells, and the weights they give to a prompt's output. */
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { round, roundHalfEven } from "./float-math.ts";
import { type Size, sizeOf } from "./resize.ts";

/** Where a prompt applies: whole latent cells, or fractions of the latent. */
export type Area = Readonly<{
  type: "cells" | "fraction";
  height: number;
  width: number;
  y: number;
  x: number;
}>;

/** An area in whole cells. */
export type Box = Size & Readonly<{ y: number; x: number }>;

/** Cells over which an area fades in at an edge inside the latent; a quarter of a small area. */
const FEATHER_CELLS = 8;
/** Smallest side of a box around a mask. */
const BOUNDS_CELLS_MIN = 8;

export function isSameBox(a: Box, b: Box): boolean {
  return a.height === b.height && a.width === b.width && a.y === b.y && a.x === b.x;
}

export function isInside(inner: Box, outer: Box): boolean {
  return (
    inner.y >= outer.y &&
    inner.x >= outer.x &&
    inner.y + inner.height <= outer.y + outer.height &&
    inner.x + inner.width <= outer.x + outer.width
  );
}

/** An area in cells; it may still reach beyond the latent. */
export function resolveArea(area: Area, { height, width }: Size): Box {
  if (area.type === "cells") {
    return { height: area.height, width: area.width, y: area.y, x: area.x };
  }
  return {
    height: Math.max(1, roundHalfEven(area.height * height)),
    width: Math.max(1, roundHalfEven(area.width * width)),
    y: roundHalfEven(area.y * height),
    x: roundHalfEven(area.x * width),
  };
}

/** The box around the cells that are not 0 in any row of a mask [n, h, w]. */
export function boxOfMask(mask: FloatTensor): Box {
  const { height, width } = sizeOf(mask);
  let [top, left, bottom, right] = [height, width, -1, -1];
  for (let index = 0; index < mask.data.length; index++) {
    if (mask.data[index] === 0) continue;
    const row = Math.floor(index / width) % height;
    const column = index % width;
    top = Math.min(top, row);
    bottom = Math.max(bottom, row);
    left = Math.min(left, column);
    right = Math.max(right, column);
  }
  // An empty mask contributes nothing; the smallest box is the cheapest.
  if (bottom < 0) return { height: BOUNDS_CELLS_MIN, width: BOUNDS_CELLS_MIN, y: 0, x: 0 };
  return {
    height: Math.max(BOUNDS_CELLS_MIN, bottom - top + 1),
    width: Math.max(BOUNDS_CELLS_MIN, right - left + 1),
    y: top,
    x: left,
  };
}

function clip(box: Box, { height, width }: Size): Box {
  const clipped = {
    y: box.y,
    x: box.x,
    height: Math.min(height - box.y, box.height),
    width: Math.min(width - box.x, box.width),
  };
  const isUsable =
    [clipped.y, clipped.x].every((start) => Number.isInteger(start) && start >= 0) &&
    [clipped.height, clipped.width].every((side) => Number.isInteger(side) && side >= 1);
  if (isUsable) return clipped;
  throw new LunaError(
    "REQUEST_INVALID",
    `A prompt's area of ${box.width}x${box.height} cells at (${box.x}, ${box.y}) lies outside the latent of ${width}x${height} cells: move it inside.`,
  );
}

/** Weights of one axis: from 1/n up to 1 over n cells at each edge inside the latent. */
function featherOf({ start, length, total }: Record<"start" | "length" | "total", number>) {
  const weights = new Float32Array(length).fill(1);
  const cells = Math.min(FEATHER_CELLS, Math.floor(length / 4));
  for (let index = 0; index < cells; index++) {
    const weight = round((1 / cells) * (index + 1));
    if (start !== 0) weights[index] = weight;
    if (start + length < total) weights[length - 1 - index] = weight;
  }
  return weights;
}

function featheredBox(box: Box, size: Size, strength: number): Float32Array {
  const rows = featherOf({ start: box.y, length: box.height, total: size.height });
  const columns = featherOf({ start: box.x, length: box.width, total: size.width });
  const weights = new Float32Array(box.height * box.width);
  for (const [row, down] of rows.entries()) {
    const base = round(strength * down);
    for (const [column, across] of columns.entries()) {
      weights[row * box.width + column] = base * across;
    }
  }
  return weights;
}

function maskedBox(mask: FloatTensor, box: Box, [strength, maskStrength]: readonly number[]) {
  const { height, width } = sizeOf(mask);
  const rows = mask.data.length / (height * width);
  const weights = new Float32Array(rows * box.height * box.width);
  let index = 0;
  for (let row = 0; row < rows * box.height; row++) {
    const plane = Math.floor(row / box.height);
    const begin = (plane * height + box.y + (row % box.height)) * width + box.x;
    for (let column = begin; column < begin + box.width; column++) {
      const masked = round((mask.data[column] as number) * round(maskStrength ?? 1));
      weights[index++] = masked * round(strength ?? 1);
    }
  }
  return weights;
}

/** The part of the latent a prompt denoises, and its weights there ([n, box], undefined is 1). */
export function multiplierOf(
  prompt: Readonly<{ box?: Box; mask?: FloatTensor; strength?: number; maskStrength?: number }>,
  size: Size,
): Readonly<{ box: Box; multiplier: Float32Array | undefined }> {
  const { strength = 1, maskStrength = 1, mask } = prompt;
  const box = prompt.box ? clip(prompt.box, size) : { ...size, y: 0, x: 0 };
  if (mask) return { box, multiplier: maskedBox(mask, box, [strength, maskStrength]) };
  if (!prompt.box && strength === 1) return { box, multiplier: undefined };
  return { box, multiplier: featheredBox(box, size, round(strength)) };
}
