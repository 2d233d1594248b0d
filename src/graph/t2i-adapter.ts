/**
 * T2I-Adapter (arXiv 2302.08453), full, light and SDXL's: residuals from the hint picture alone.
 * Input: hint [rows, channels unshuffle^2, h, w], its pixels moved into channels (pixelUnshuffle).
 * Outputs: control.input.N (and control.middle.0), one for each level, not yet scaled by a strength.
 */
import assert from "node:assert";
import {
  controlPlaces,
  halvesAt,
  type T2IAdapterConfig,
  type WeightTable,
} from "../checkpoint/index.ts";
import { GraphBuilder, type Value } from "./graph-builder.ts";
import { conv2d } from "./layers.ts";
import { int, ints } from "./onnx.ts";
import type { BuiltGraph, GraphOptions } from "./types.ts";

/** Throws CHECKPOINT_UNSUPPORTED when the weights do not fit. */
export function buildT2IAdapterGraph(
  config: T2IAdapterConfig,
  weights: WeightTable,
  { choices, externalFile }: GraphOptions,
): BuiltGraph {
  const { isLight, unshuffle, hintChannels, widths, resBlocks } = config;
  const b = new GraphBuilder({
    ...{ name: "t2i-adapter", weights, choices, externalFile },
    hasAdapters: false,
  });
  const hint = b.input("hint", ["rows", hintChannels * unshuffle ** 2, "height", "width"]);
  let h = isLight ? hint : conv2d(b, hint, { name: "conv_in" });
  const places = controlPlaces(config);
  for (const [level, width] of widths.entries()) {
    const first = isLight ? `body.${level}` : `body.${level * resBlocks}`;
    if (halvesAt(config, level)) h = halve(b, h, `${first}.down_opt.op`);
    if (b.hasWeight(`${first}.in_conv.weight`)) h = conv2d(b, h, { name: `${first}.in_conv` });
    for (let j = 0; j < resBlocks; j++) {
      h = resBlock(b, h, isLight ? `body.${level}.body.${j}` : `body.${level * resBlocks + j}`);
    }
    if (isLight) h = conv2d(b, h, { name: `${first}.out_conv` });
    const name = places[level]?.name;
    assert(name !== undefined, "Every level has its place.");
    b.output(name, h, { shape: ["rows", width, `${name}.height`, `${name}.width`] });
  }
  return b.build();
}

function resBlock(b: GraphBuilder, x: Value, name: string): Value {
  const inner = b.node("Relu", [conv2d(b, x, { name: `${name}.block1` })]);
  return b.node("Add", [conv2d(b, inner, { name: `${name}.block2` }), x]);
}

/** Half the height and width, rounded up: by a convolution, or the mean of 2x2 cells. */
function halve(b: GraphBuilder, x: Value, name: string): Value {
  if (b.hasWeight(`${name}.weight`)) return conv2d(b, x, { name, stride: 2 });
  // An odd side gets a row of zeros before it, which counts.
  const size = b.node("Shape", [x], { attributes: { start: int(2), end: int(4) } });
  const before = b.node("Mod", [size, b.integers([2])]);
  const axes = [b.integers([0, 0]), before, b.integers([0, 0, 0, 0])];
  const pads = b.node("Concat", axes, { attributes: { axis: int(0) } });
  return b.node("AveragePool", [b.node("Pad", [x, pads])], {
    attributes: { kernel_shape: ints([2, 2]), strides: ints([2, 2]) },
  });
}

/**
 * PyTorch's pixel_unshuffle: [n, c, h r, w r] to [n, c r^2, h, w], channel c, row, column. The
 * picture's sides must be multiples of `factor`.
 */
export function pixelUnshuffle(
  { shape, data }: Readonly<{ shape: readonly number[]; data: Float32Array }>,
  factor: number,
): { shape: number[]; data: Float32Array } {
  const [rows = 0, channels = 0, height = 0, width = 0] = shape;
  const [h, w] = [height / factor, width / factor];
  const result = new Float32Array(data.length);
  for (let plane = 0; plane < rows * channels; plane++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const channel = plane * factor ** 2 + (y % factor) * factor + (x % factor);
        const at = (channel * h + Math.floor(y / factor)) * w + Math.floor(x / factor);
        result[at] = data[(plane * height + y) * width + x] ?? 0;
      }
    }
  }
  return { shape: [rows, channels * factor ** 2, h, w], data: result };
}
