/**
 * The layers all nets share, written with the operators a provider computes best and exactly.
 * Each takes the builder, the values it works on and the canonical name of its weights.
 */
import assert from "node:assert";
import { LunaError } from "../kernel/index.ts";
import { adaptConv, adaptLinear, affine, scaleColumns, scaleRows, shiftBias } from "./adapters.ts";
import type { GraphBuilder, Value } from "./graph-builder.ts";
import { float, int, ints, text } from "./onnx.ts";

const MICROSOFT = "com.microsoft";

/** Output and input width of a linear layer; a 1x1 convolution is one too. */
function linearShape(b: GraphBuilder, name: string): [outputs: number, inputs: number] {
  const { shape } = b.weightRef(`${name}.weight`);
  const [outputs, inputs, ...kernel] = shape;
  const isLinear = kernel.every((axis) => axis === 1);
  if (outputs !== undefined && inputs !== undefined && isLinear) return [outputs, inputs];
  throw new LunaError(
    "CHECKPOINT_UNSUPPORTED",
    `Weight "${name}.weight" has the shape [${shape.join(", ")}]; a linear layer needs two axes.`,
  );
}

/**
 * x W^T + bias, where the checkpoint has a bias, and the LoRA path. x [batch, time, in], or
 * [batch, in] with `hasTime` false. FusedMatMul reads W in place; MatMul would copy its transpose.
 */
export function linear(
  b: GraphBuilder,
  x: Value,
  layer: { name: string; hasTime?: boolean },
): Value {
  const { name, hasTime = true } = layer;
  const [outputs, inputs] = linearShape(b, name);
  const isTransposed = b.weightRef(`${name}.weight`).isTransposed === true;
  const stored = isTransposed ? [inputs, outputs] : [outputs, inputs];
  const vectors = { name, kind: "linear", hasTime, inputs, outputs } as const;
  const operands = [scaleColumns(b, x, vectors), b.storedWeight(`${name}.weight`, stored)];
  const matrix = b.node("FusedMatMul", operands, {
    domain: MICROSOFT,
    attributes: { transB: int(isTransposed ? 0 : 1) },
  });
  const product = scaleRows(b, matrix, vectors);
  const biased = b.hasWeight(`${name}.bias`)
    ? b.node("Add", [product, b.weight(`${name}.bias`)])
    : product;
  const y = shiftBias(b, biased, vectors);
  return adaptLinear(b, { name, x, y, inputs, outputs, hasTime });
}

/**
 * Convolution with its bias, where the checkpoint has one, and the LoRA path. Padding is half the
 * kernel unless `pads` (top, left, bottom, right) says otherwise. x [batch, in, height, width].
 */
export function conv2d(
  b: GraphBuilder,
  x: Value,
  layer: { name: string; stride?: number; pads?: readonly [number, number, number, number] },
): Value {
  const { name, stride = 1 } = layer;
  const { shape } = b.weightRef(`${name}.weight`);
  const [outputs, inputs, height, width] = shape;
  if (
    outputs === undefined ||
    inputs === undefined ||
    height === undefined ||
    width === undefined
  ) {
    throw new LunaError(
      "CHECKPOINT_UNSUPPORTED",
      `Weight "${name}.weight" has the shape [${shape.join(", ")}]; a convolution needs four axes.`,
    );
  }
  const kernel = [height, width] as const;
  const pads = layer.pads ?? [height >> 1, width >> 1, height >> 1, width >> 1];
  const vectors = { name, kind: "conv", inputs, outputs } as const;
  const hasBias = b.hasWeight(`${name}.bias`);
  const operands = [scaleColumns(b, x, vectors), b.weight(`${name}.weight`)];
  // Rows are scaled before the bias, which then cannot be part of the convolution.
  if (hasBias && !b.isFull) operands.push(b.weight(`${name}.bias`));
  const product = b.node("Conv", operands, {
    attributes: { kernel_shape: ints(kernel), pads: ints(pads), strides: ints([stride, stride]) },
  });
  const scaled = scaleRows(b, product, vectors);
  const biased =
    hasBias && b.isFull
      ? b.node("Add", [scaled, b.weight(`${name}.bias`, [1, outputs, 1, 1])])
      : scaled;
  const y = shiftBias(b, biased, vectors);
  return adaptConv(b, { name, x, y, inputs, outputs, kernel, stride, pads });
}

/** All of Stable Diffusion normalizes in 32 groups. */
const GROUPS = 32;

/** GroupNorm with affine weights. x [batch, channels, height, width]. */
export function groupNorm(
  b: GraphBuilder,
  x: Value,
  layer: { name: string; epsilon: number },
): Value {
  const { name, epsilon } = layer;
  const [channels] = b.weightRef(`${name}.weight`).shape;
  if (channels === undefined || channels % GROUPS !== 0) {
    throw new LunaError(
      "CHECKPOINT_UNSUPPORTED",
      `"${name}" normalizes ${channels} channels; a multiple of ${GROUPS} is needed.`,
    );
  }
  const grouped = b.node("Reshape", [x, b.integers([0, GROUPS, -1])]);
  const ones = b.floats(new Array<number>(GROUPS).fill(1));
  const zeros = b.floats(new Array<number>(GROUPS).fill(0));
  const normal = b.node("InstanceNormalization", [grouped, ones, zeros], {
    attributes: { epsilon: float(epsilon) },
  });
  const back = b.node("Reshape", [normal, b.node("Shape", [x])]);
  addNorm(b, { name, kind: "group-norm", channels });
  return affine(b, back, { name, kind: "group-norm", channels });
}

function addNorm(
  b: GraphBuilder,
  norm: { name: string; kind: "layer-norm" | "group-norm"; channels: number },
): void {
  const { name, kind, channels } = norm;
  b.addNormTarget({ name, kind, inputs: 0, outputs: channels, kernel: [1, 1] });
}

/** LayerNorm over the last axis with affine weights. */
export function layerNorm(
  b: GraphBuilder,
  x: Value,
  layer: { name: string; epsilon: number },
): Value {
  const { name, epsilon } = layer;
  const [channels = 0] = b.weightRef(`${name}.weight`).shape;
  addNorm(b, { name, kind: "layer-norm", channels });
  const attributes = { axis: int(-1), epsilon: float(epsilon) };
  if (!b.isFull) {
    const operands = [x, b.weight(`${name}.weight`), b.weight(`${name}.bias`)];
    return b.node("LayerNormalization", operands, { attributes });
  }
  const ones = b.floats(new Array<number>(channels).fill(1));
  const normal = b.node("LayerNormalization", [x, ones], { attributes });
  return affine(b, normal, { name, kind: "layer-norm", channels });
}

export function silu(b: GraphBuilder, x: Value): Value {
  return b.node("Mul", [x, b.node("Sigmoid", [x])]);
}

/** The exact (erf) GELU. */
export function gelu(b: GraphBuilder, x: Value): Value {
  return b.node("Gelu", [x], { domain: MICROSOFT });
}

/** OpenAI's approximation of GELU: x * sigmoid(1.702 x). */
export function quickGelu(b: GraphBuilder, x: Value): Value {
  return b.node("Mul", [x, b.node("Sigmoid", [b.node("Mul", [x, b.floats([1.702])])])]);
}

/** First half of the last axis times GELU of the second half. */
export function geglu(b: GraphBuilder, x: Value): Value {
  const [value, gate] = b.nodes("Split", [x], {
    attributes: { axis: int(-1), num_outputs: int(2) },
    outputCount: 2,
  });
  assert(value !== undefined && gate !== undefined);
  return b.node("Mul", [value, gelu(b, gate)]);
}

export type AttentionInputs = Readonly<{
  /** [batch, time, width]; key and value may have another time. */
  query: Value;
  key: Value;
  value: Value;
  heads: number;
  width: number;
  /** Each position sees itself and earlier ones only. */
  isCausal?: boolean;
}>;

/** softmax(q k^T / sqrt(width / heads)) v, heads side by side in the last axis. */
export function attention(b: GraphBuilder, inputs: AttentionInputs): Value {
  return b.choices.attention === "fused" ? fusedAttention(b, inputs) : plainAttention(b, inputs);
}

function fusedAttention(b: GraphBuilder, inputs: AttentionInputs): Value {
  const { query, key, value, heads, isCausal = false } = inputs;
  return b.node("MultiHeadAttention", [query, key, value], {
    domain: MICROSOFT,
    attributes: { num_heads: int(heads), unidirectional: int(isCausal ? 1 : 0) },
  });
}

function plainAttention(b: GraphBuilder, inputs: AttentionInputs): Value {
  const { query, key, value, heads, width, isCausal = false } = inputs;
  const splitHeads = (tensor: Value, order: readonly number[]): Value => {
    const split = b.node("Reshape", [tensor, b.integers([0, 0, heads, width / heads])]);
    return b.node("Transpose", [split], { attributes: { perm: ints(order) } });
  };
  const scale = b.floats([(width / heads) ** -0.5]);
  const q = b.node("Mul", [splitHeads(query, [0, 2, 1, 3]), scale]);
  const product = b.node("MatMul", [q, splitHeads(key, [0, 2, 3, 1])]);
  const scores = isCausal ? b.node("Add", [product, causalMask(b, product)]) : product;
  const weights = b.node("Softmax", [scores], { attributes: { axis: int(-1) } });
  const out = b.node("MatMul", [weights, splitHeads(value, [0, 2, 1, 3])]);
  const joined = b.node("Transpose", [out], { attributes: { perm: ints([0, 2, 1, 3]) } });
  return b.node("Reshape", [joined, b.integers([0, 0, width])]);
}

/** The lowest number of the compute type above the diagonal, 0 elsewhere. [time, time] */
function causalMask(b: GraphBuilder, scores: Value): Value {
  const size = b.node("Shape", [scores], { attributes: { start: int(2) } });
  const lowest = b.choices.compute === "float32" ? -3.4028234663852886e38 : -65504;
  const full = b.node("Expand", [b.floats([lowest]), size]);
  return b.node("Trilu", [full, b.integers([1], [])], { attributes: { upper: int(1) } });
}

/** Nearest-neighbour enlargement to the given sizes [batch, channels, height, width] (int64). */
export function resizeNearest(b: GraphBuilder, x: Value, sizes: Value): Value {
  return b.node("Resize", [x, "", "", sizes], {
    attributes: {
      mode: text("nearest"),
      coordinate_transformation_mode: text("asymmetric"),
      nearest_mode: text("floor"),
    },
  });
}
