/**
 * LoRA as inputs of the graph (docs/ARCHITECTURE.md): beside every target stands
 * y += ((x down^T) * scale) up. `down` and `up` join the rows of all adapters in the batch, and
 * `scale` holds each item's strength for each row, 0 where the item does not use it. So one run
 * serves items with different adapters, and no weight is ever written. A linear layer also takes
 * factors of its own for each item, [batch, rank, channels]: where many items of a batch use different
 * adapters, each is then multiplied by its own alone (docs/performance.md has both measured).
 *
 * A full graph has more inputs for what is no sum of low rank: y = row * (W (column * x)) + bias,
 * and the weights of norms are shifted by `gain` and `bias`. Each is one vector for each batch row;
 * ones (row, column) and zeros (gain, bias) are neutral.
 */
import type { GraphBuilder, Value } from "./graph-builder.ts";
import { int, ints } from "./onnx.ts";
import type { AdapterTarget, OpChoices } from "./types.ts";

/** Names of the three inputs of a target. */
export function adapterInputs(target: string): { down: string; up: string; scale: string } {
  return {
    down: `lora.${target}.down`,
    up: `lora.${target}.up`,
    scale: `lora.${target}.scale`,
  };
}

/** Names of the vectors of a layer in a full graph; a norm has `gain` and `bias` only. */
export function vectorInputs(target: string): Record<"row" | "column" | "bias" | "gain", string> {
  return {
    row: `lora.${target}.row`,
    column: `lora.${target}.column`,
    bias: `lora.${target}.bias`,
    gain: `lora.${target}.gain`,
  };
}

/** Axes of such a vector: the layer's channels are the last axis, or axis 1 of a picture. */
export function vectorShape<Batch extends number | string>(
  { kind }: Pick<AdapterTarget, "kind">,
  batch: Batch,
  channels: number,
): (Batch | number)[] {
  const isPicture = kind === "conv" || kind === "group-norm";
  return isPicture ? [batch, channels, 1, 1] : [batch, 1, channels];
}

type VectorLayer = Readonly<{
  name: string;
  kind: AdapterTarget["kind"];
  /** False where the value is [batch, channels]. */
  hasTime?: boolean;
}>;

function vector(
  b: GraphBuilder,
  layer: VectorLayer,
  which: Readonly<{ part: "row" | "column" | "bias" | "gain"; channels: number }>,
): Value {
  const name = vectorInputs(layer.name)[which.part];
  // A norm that stands twice in a graph shares its inputs.
  const value = b.hasInput(name)
    ? name
    : b.input(name, vectorShape(layer, "batch", which.channels));
  return layer.hasTime === false ? b.node("Squeeze", [value, b.integers([1])]) : value;
}

/** x with its channels scaled, in a full graph. */
export function scaleColumns(
  b: GraphBuilder,
  x: Value,
  layer: VectorLayer & Readonly<{ inputs: number }>,
): Value {
  if (!b.isFull) return x;
  return b.node("Mul", [x, vector(b, layer, { part: "column", channels: layer.inputs })]);
}

/** y before its bias with its channels scaled, in a full graph. */
export function scaleRows(
  b: GraphBuilder,
  y: Value,
  layer: VectorLayer & Readonly<{ outputs: number }>,
): Value {
  if (!b.isFull) return y;
  return b.node("Mul", [y, vector(b, layer, { part: "row", channels: layer.outputs })]);
}

/** y after its bias with the bias's change added, in a full graph. */
export function shiftBias(
  b: GraphBuilder,
  y: Value,
  layer: VectorLayer & Readonly<{ outputs: number }>,
): Value {
  if (!b.isFull) return y;
  return b.node("Add", [y, vector(b, layer, { part: "bias", channels: layer.outputs })]);
}

/** normal * (weight + gain) + (bias + its change); the sums in a full graph only. */
export function affine(
  b: GraphBuilder,
  normal: Value,
  layer: Readonly<{ name: string; kind: "layer-norm" | "group-norm"; channels: number }>,
): Value {
  const { name, kind, channels } = layer;
  const shape = kind === "group-norm" ? [1, channels, 1, 1] : [channels];
  let [gain, bias] = [b.weight(`${name}.weight`, shape), b.weight(`${name}.bias`, shape)];
  if (b.isFull) {
    gain = b.node("Add", [gain, vector(b, layer, { part: "gain", channels })]);
    bias = b.node("Add", [bias, vector(b, layer, { part: "bias", channels })]);
  }
  return b.node("Add", [b.node("Mul", [normal, gain]), bias]);
}

/** Smallest legal rank of a target's inputs; rows of zeros fill up what is missing. */
export function adapterRankMin(_target: AdapterTarget, choices: OpChoices): 0 | 1 {
  return choices.rankMin;
}

/**
 * ONNX Runtime plans which result may lie in which free buffer by comparing shapes, each result
 * with every free one. Ranks that no two targets share would leave thousands of buffers to compare
 * (SDXL: 8.5 s of CPU time to open a session). From a factor of unknown shape on, shapes stay
 * unknown and the allocator places the results as the graph runs (2 s; a step takes 1-2 % longer).
 */
const FACTOR_SHAPE = "unknown";

/** Adds the side path of a linear layer to `y`. x [batch, time, in], or [batch, in] (`hasTime` false). */
export function adaptLinear(
  b: GraphBuilder,
  layer: { name: string; x: Value; y: Value; inputs: number; outputs: number; hasTime: boolean },
): Value {
  const { name, x, y, inputs, outputs, hasTime } = layer;
  if (!b.hasAdapters) return y;
  b.addAdapterTarget({ name, kind: "linear", inputs, outputs, kernel: [1, 1] });
  const names = adapterInputs(name);
  const down = b.input(names.down, FACTOR_SHAPE);
  const up = b.input(names.up, FACTOR_SHAPE);
  const scale = b.input(names.scale, ["batch", 1, `rank.${name}`]);
  // Without a time axis x would meet scale's axis 1 as if it were the batch.
  const rows = hasTime ? x : b.node("Unsqueeze", [x, b.integers([1])]);
  const inner = b.node("FusedMatMul", [rows, down], {
    domain: "com.microsoft",
    attributes: { transB: int(1) },
  });
  const side = b.node("MatMul", [b.node("Mul", [inner, scale]), up]);
  return b.node("Add", [y, hasTime ? side : b.node("Squeeze", [side, b.integers([1])])]);
}

/** Adds the side path of a convolution to `y`. x [batch, in, height, width]. */
export function adaptConv(
  b: GraphBuilder,
  layer: {
    name: string;
    x: Value;
    y: Value;
    inputs: number;
    outputs: number;
    kernel: readonly [number, number];
    stride: number;
    pads: readonly number[];
  },
): Value {
  const { name, x, y, inputs, outputs, kernel, stride, pads } = layer;
  if (!b.hasAdapters) return y;
  b.addAdapterTarget({ name, kind: "conv", inputs, outputs, kernel });
  const names = adapterInputs(name);
  const rank = `rank.${name}`;
  const down = b.input(names.down, FACTOR_SHAPE);
  const up = b.input(names.up, [rank, outputs]);
  const scale = b.input(names.scale, ["batch", rank, 1, 1]);
  const inner = b.node("Conv", [x, down], {
    attributes: { kernel_shape: ints(kernel), pads: ints(pads), strides: ints([stride, stride]) },
  });
  // The 1x1 product as ONE matrix product over all cells of the batch, [out, rank] x [rank, cells]:
  // with rank 0, ONNX Runtime 1.30 leaves the result of a convolution, and of all but the first
  // matrix of a batched product, uninitialized.
  const swap = { attributes: { perm: ints([1, 0, 2, 3]) } };
  const scaled = b.node("Transpose", [b.node("Mul", [inner, scale])], swap);
  const cells = b.node("Flatten", [scaled], { attributes: { axis: int(1) } });
  const product = b.node("FusedMatMul", [up, cells], {
    domain: "com.microsoft",
    attributes: { transA: int(1) },
  });
  const shape = b.node("Gather", [b.node("Shape", [y]), b.integers([1, 0, 2, 3])]);
  const side = b.node("Transpose", [b.node("Reshape", [product, shape])], swap);
  return b.node("Add", [y, side]);
}
