import { LunaError } from "../../kernel/index.ts";
import { type FloatTensor, floatTensor } from "../../tensor/index.ts";
import { BATCH_MAX, RESOLUTION_MAX } from "../limits.ts";
import { defineNode, output } from "../node-definition.ts";
import { upscale } from "../upscale.ts";
import type { Latent } from "../values.ts";

/** Pixels of one latent cell. */
const CELL = 8;

const batchIndexOf = ({ samples, batchIndex }: Latent): readonly number[] =>
  batchIndex ?? Array.from({ length: samples.shape[0] ?? 0 }, (_, index) => index);

const latentBatch = defineNode({
  name: "LatentBatch",
  displayName: "LatentBatch",
  category: "latent/batch",
  inputs: { samples1: { type: "LATENT" }, samples2: { type: "LATENT" } },
  outputs: [output("LATENT")],
  run({ samples1, samples2 }) {
    const [rows = 1, channels = 1, height = 1, width = 1] = samples1.samples.shape;
    const { samples } = samples2;
    const isSame = samples.shape[2] === height && samples.shape[3] === width;
    const second = isSame
      ? samples
      : upscale(samples, { height, width }, { method: "bilinear", isCropped: true });
    const joined = floatTensor([rows + (second.shape[0] ?? 0), channels, height, width]);
    joined.data.set(samples1.samples.data);
    joined.data.set(second.data, samples1.samples.data.length);
    const batchIndex = [...batchIndexOf(samples1), ...batchIndexOf(samples2)];
    return { outputs: [{ ...samples1, samples: joined, batchIndex }] };
  },
});

const PLACE = { type: "INT", default: 0, min: 0, max: RESOLUTION_MAX, step: 8 } as const;

type Paste = Readonly<{ x: number; y: number; feather: number }>;

/** Weight of a pasted cell: it fades towards edges that do not lie on the border of the target. */
function weightOf(
  [row, column]: readonly [number, number],
  size: Readonly<{ height: number; width: number }>,
  fades: Readonly<Record<"top" | "bottom" | "left" | "right", boolean>>,
  feather: number,
): number {
  const edge = (distance: number, isFading: boolean) =>
    isFading && distance < feather ? (distance + 1) / feather : 1;
  return (
    edge(row, fades.top) *
    edge(size.height - 1 - row, fades.bottom) *
    edge(column, fades.left) *
    edge(size.width - 1 - column, fades.right)
  );
}

/** All in latent cells. */
function paste(target: FloatTensor, source: FloatTensor, { x, y, feather }: Paste): FloatTensor {
  const [rows = 1, channels = 1, high = 1, wide = 1] = target.shape;
  const [sourceRows = 1, , sourceHigh = 1, sourceWide = 1] = source.shape;
  if (sourceRows !== rows && sourceRows !== 1) {
    throw new LunaError("REQUEST_INVALID", `Batches of ${rows} and ${sourceRows} latents differ.`);
  }
  const size = {
    height: Math.max(Math.min(sourceHigh, high - y), 0),
    width: Math.max(Math.min(sourceWide, wide - x), 0),
  };
  const fades = {
    top: y !== 0,
    bottom: y + size.height < high,
    left: x !== 0,
    right: x + size.width < wide,
  };
  const data = target.data.slice();
  for (let plane = 0; plane < rows * channels; plane++) {
    const from = plane % (sourceRows * channels);
    for (let row = 0; row < size.height; row++) {
      for (let column = 0; column < size.width; column++) {
        const at = (plane * high + y + row) * wide + x + column;
        const value = source.data[(from * sourceHigh + row) * sourceWide + column] ?? 0;
        const weight = feather === 0 ? 1 : weightOf([row, column], size, fades, feather);
        data[at] = value * weight + (data[at] ?? 0) * (1 - weight);
      }
    }
  }
  return { ...target, data };
}

const latentComposite = defineNode({
  name: "LatentComposite",
  displayName: "Latent Composite",
  category: "latent",
  description: "Puts one latent over another; x, y and feather are pixels.",
  inputs: {
    samples_to: { type: "LATENT" },
    samples_from: { type: "LATENT" },
    x: PLACE,
    y: PLACE,
    feather: PLACE,
  },
  outputs: [output("LATENT")],
  run({ samples_to, samples_from, x, y, feather }) {
    const cells = (pixels: number) => Math.floor(pixels / CELL);
    const place = { x: cells(x), y: cells(y), feather: cells(feather) };
    const samples = paste(samples_to.samples, samples_from.samples, place);
    return { outputs: [{ ...samples_to, samples }] };
  },
});

/** One row of a batch with what belongs to it. */
type Row = Readonly<{ samples: FloatTensor; mask: FloatTensor; index: number; size: string }>;

/** `offset` is the number of rows before this batch. */
function rowsOf(latent: Latent, offset: number): Row[] {
  const { samples, noiseMask, batchIndex } = latent;
  const [rows = 0, channels = 1, height = 1, width = 1] = samples.shape;
  const whole = floatTensor([1, 1, height * CELL, width * CELL]);
  whole.data.fill(1);
  const [maskRows = 1, ...maskShape] = noiseMask?.shape ?? whole.shape;
  return Array.from({ length: rows }, (_, row) => ({
    samples: pick(samples, row, [1, channels, height, width]),
    mask: pick(noiseMask ?? whole, row % maskRows, [1, ...maskShape]),
    index: batchIndex?.[row] ?? offset + row,
    size: `${height}x${width}, mask ${maskShape}`,
  }));
}

function pick({ data }: FloatTensor, row: number, shape: readonly number[]): FloatTensor {
  const length = shape.reduce((product, axis) => product * axis, 1);
  return floatTensor(shape, data.slice(row * length, (row + 1) * length));
}

function joinRows(rows: readonly Row[]): Latent {
  const join = (parts: readonly FloatTensor[]) => {
    const [, ...shape] = parts[0]?.shape ?? [];
    const length = parts[0]?.data.length ?? 0;
    const joined = floatTensor([parts.length, ...shape]);
    for (const [row, { data }] of parts.entries()) joined.data.set(data, row * length);
    return joined;
  };
  const mask = join(rows.map((row) => row.mask));
  const isWhole = mask.data.every((value) => value === 1);
  return {
    samples: join(rows.map((row) => row.samples)),
    batchIndex: rows.map((row) => row.index),
    ...(!isWhole && { noiseMask: mask }),
  };
}

const rebatchLatents = defineNode({
  name: "RebatchLatents",
  displayName: "Rebatch Latents",
  category: "latent/batch",
  description: "Cuts all latents into batches of one size; what follows runs once for each.",
  isInputList: true,
  inputs: {
    latents: { type: "LATENT" },
    batch_size: { type: "INT", default: 1, min: 1, max: BATCH_MAX },
  },
  outputs: [{ type: "LATENT", name: "LATENT", isList: true }],
  run(inputs) {
    // Inputs of this node are lists.
    const { latents, batch_size } = inputs as unknown as {
      latents: readonly Latent[];
      batch_size: readonly number[];
    };
    const rows: Row[] = [];
    for (const latent of latents) rows.push(...rowsOf(latent, rows.length));
    const batches: Row[][] = [];
    for (const row of rows) {
      const last = batches.at(-1);
      const isFull = last === undefined || last.length >= (batch_size[0] ?? 1);
      if (isFull || last[0]?.size !== row.size) batches.push([row]);
      else last.push(row);
    }
    return { outputs: [batches.map(joinRows)] };
  },
});

export const LATENT_TOOL_NODES = [latentBatch, latentComposite, rebatchLatents];
