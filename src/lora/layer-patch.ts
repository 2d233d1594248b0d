/** The patch of one layer from its tensors, whatever kind of adapter they spell. */
import type { AdapterTarget } from "../graph/index.ts";
import { elementCount, toFloat } from "../tensor/index.ts";
import type { AdapterGroup, PartName } from "./adapter-keys.ts";
import { cayley } from "./dense-patch.ts";
import { OFT_BLOCK_MAX } from "./limits.ts";
import {
  type AdapterKind,
  adapterKind,
  alphaScale,
  expectRank,
  expectSize,
  layerText,
  lowRank,
  malformed,
  matrix,
  type Parts,
  part,
} from "./low-rank.ts";
import { isFinite32, type Matrix, scaled, transpose } from "./matrix.ts";
import { type FactorMemory, owned } from "./read-factor.ts";
import type { DensePatch, LayerPatch, ParsedLora } from "./types.ts";

const NO_FACTORS = { rank: 0, down: new Float32Array(0), up: new Float32Array(0) };

const isNorm = ({ kind }: AdapterTarget): boolean => kind === "layer-norm" || kind === "group-norm";

/**
 * Nothing when the tensors spell no adapter (an alpha alone). Throws LORA_MALFORMED for tensors that
 * are missing, do not fit the layer or hold NaN or infinity, LORA_UNSUPPORTED for too high a rank.
 */
export function layerPatch(
  group: AdapterGroup,
  target: AdapterTarget,
  memory: FactorMemory,
): { kind: AdapterKind; patch: LayerPatch } | undefined {
  const { parts } = group;
  const kind = adapterKind(group);
  if (kind === undefined) return undefined;
  const patch = isNorm(target)
    ? normPatch(parts, kind, target)
    : matrixPatch(group, kind, { target, memory });
  if (patch === undefined) return undefined;
  const bias = parts.has("diff_b") ? "diff_b" : "b_norm";
  const shift = parts.has(bias) ? { bias: vector(parts, bias, target.outputs) } : {};
  return { kind, patch: { ...patch, ...magnitudeOf(parts, target), ...shift } };
}

function arraysOf(patch: LayerPatch): Float32Array[] {
  const { up, down, bias, gain, row, column, inner, dense, magnitude } = patch;
  const denseValues = dense && ("values" in dense ? dense.values : dense.rotations);
  const rescale = dense?.type === "boft" ? dense.rescale : undefined;
  return [
    ...[up, down, bias, gain, row, column, inner?.a1, inner?.a2, denseValues, rescale],
    magnitude?.values,
  ].flatMap((values) => values ?? []);
}

export function bytesOfPatch(patch: LayerPatch): number {
  return arraysOf(patch).reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** The memory of all values, to hand it to another thread. */
export function buffersOf({ unet, text }: Pick<ParsedLora, "unet" | "text">): ArrayBuffer[] {
  const nets = [unet, ...text.values()];
  const arrays = nets.flatMap((layers) => [...layers.values()].flatMap(arraysOf));
  // Empty ones are shared; another thread gets its own.
  const buffers = arrays.flatMap(({ buffer, byteLength }) => (byteLength === 0 ? [] : buffer));
  return [...new Set(buffers)].filter((buffer) => buffer instanceof ArrayBuffer);
}

function finite(parts: Parts, data: Float32Array): Float32Array {
  if (isFinite32(data)) return owned(data);
  throw malformed(parts, "holds NaN or infinity");
}

/** All values of a tensor that must have `count` of them. */
function vector(parts: Parts, name: PartName, count: number): Float32Array {
  const { tensor } = part(parts, name);
  expectSize(parts, name, {
    actual: elementCount(tensor.shape),
    expected: count,
    what: "its count of values",
  });
  return finite(parts, toFloat(tensor).data);
}

function normPatch(parts: Parts, kind: AdapterKind, target: AdapterTarget): LayerPatch | undefined {
  if (kind === "bias") return NO_FACTORS;
  const name = parts.has("w_norm") ? "w_norm" : "diff";
  if (kind === "diff") return { ...NO_FACTORS, gain: vector(parts, name, target.outputs) };
  throw malformed(parts, `is a ${kind} of ${layerText(target)}, which has no matrix`);
}

function matrixPatch(
  group: AdapterGroup,
  kind: AdapterKind,
  { target, memory }: Readonly<{ target: AdapterTarget; memory: FactorMemory }>,
): LayerPatch | undefined {
  const { parts } = group;
  const count = target.outputs * target.inputs * target.kernel[0] * target.kernel[1];
  switch (kind) {
    case "lora":
    case "loha":
    case "lokr":
      return lowRank(group, kind, { target, memory });
    case "glora":
      return gloraPatch(parts, target);
    case "oft": {
      const dense = oftPatch(parts, target);
      return dense && { ...NO_FACTORS, dense };
    }
    case "diff": {
      const name = parts.has("diff") ? "diff" : "w_norm";
      const values = vector(parts, name, count);
      return { ...NO_FACTORS, dense: { type: "difference", values } };
    }
    case "set": {
      const values = vector(parts, "set_weight", count);
      return { ...NO_FACTORS, dense: { type: "replacement", values } };
    }
    case "bias":
      return NO_FACTORS;
  }
}

/** DoRA's norms: along the rows where there is one for each output, else along the columns. */
function magnitudeOf(parts: Parts, target: AdapterTarget): Pick<LayerPatch, "magnitude"> {
  const found = parts.get("dora_scale");
  if (found === undefined || isNorm(target)) return {};
  // The alpha of OFT and BOFT is a limit on their blocks; ComfyUI multiplies DoRA's delta by it too.
  const limit = parts.has("oft_blocks")
    ? { deltaFactor: parts.has("alpha") ? alphaScale(parts, 1) : 0 }
    : {};
  const axis = found.tensor.shape[0] === target.outputs ? "row" : "column";
  const count = axis === "row" ? target.outputs : target.inputs;
  return { magnitude: { axis, values: vector(parts, "dora_scale", count), ...limit } };
}

/**
 * GLoRA: a (W a1 a2 + b1 b2). Old files have it as a (W a2 a1 + b2 b1), told apart by their shapes
 * as ComfyUI does.
 */
function gloraPatch(parts: Parts, target: AdapterTarget): LayerPatch {
  const [a1, a2, b1, b2] = (["a1", "a2", "b1", "b2"] as const).map((name) => matrix(parts, name));
  if (!a1 || !a2 || !b1 || !b2) throw malformed(parts, "is no whole GLoRA");
  const isOldShape = b2.columns === b1.rows && b1.rows === a1.rows && a1.rows === a2.columns;
  const isNewShape = b2.rows === b1.columns && b1.columns === a1.columns && a1.columns === a2.rows;
  const isSquare = a2.rows === target.outputs && target.outputs === target.inputs;
  const isOld = isOldShape && (!isNewShape || isSquare);
  const rank = isOld ? a1.rows : a2.rows;
  const [left, right, up, down]: Matrix[] = isOld ? [a2, a1, b2, b1] : [a1, a2, b1, b2];
  if (!left || !right || !up || !down) throw malformed(parts, "is no whole GLoRA");
  const taps = target.kernel[0] * target.kernel[1];
  const expected = [
    [left.rows, target.inputs],
    [left.columns, rank],
    [right.rows, rank],
    [right.columns, target.inputs],
    [up.rows, target.outputs],
    [up.columns, rank],
    [down.rows, rank],
    [down.columns, target.inputs * taps],
  ];
  if (expected.some(([actual, wanted]) => actual !== wanted)) {
    throw malformed(parts, `does not fit ${layerText(target)}`);
  }
  expectRank(parts, rank * (1 + taps));
  const factor = alphaScale(parts, rank);
  return {
    rank,
    up: finite(parts, transpose(up, factor).data),
    down: finite(parts, down.data),
    inner: {
      rank,
      a1: finite(parts, scaled(left, factor).data),
      a2: finite(parts, right.data),
    },
  };
}

/** OFT, or BOFT where the blocks have a fourth axis; nothing where ComfyUI's BOFT fails too. */
function oftPatch(parts: Parts, target: AdapterTarget): DensePatch | undefined {
  const { tensor } = part(parts, "oft_blocks");
  const [stages = 0, count = 0, size = 0, last = 0] =
    tensor.shape.length === 3 ? [1, ...tensor.shape] : tensor.shape;
  const isButterfly = tensor.shape.length === 4;
  const fits = size === last && count * size === target.outputs && size <= OFT_BLOCK_MAX;
  if (!fits || (!isButterfly && tensor.shape.length !== 3)) {
    const shape = tensor.shape.join(", ");
    throw malformed(parts, `has blocks [${shape}] that do not fit ${layerText(target)}`);
  }
  // The alpha of an OFT is a limit, no factor; without one ComfyUI's BOFT does nothing.
  const limit = parts.has("alpha") ? alphaScale(parts, 1) : undefined;
  if (isButterfly && limit === undefined) return undefined;
  const blocks = finite(parts, toFloat(tensor).data);
  const rotations = cayley(blocks, { size, limit: limit ?? 0 });
  if (!isButterfly) return { type: "oft", rotations, count, size };
  const step = 2 ** (stages - 1) * Math.floor(size / 2) * 2;
  if (size % 2 !== 0 || target.outputs % step !== 0) {
    throw malformed(parts, `has ${stages} stages that do not fit ${layerText(target)}`);
  }
  const rescale = parts.has("rescale") ? vector(parts, "rescale", target.outputs) : undefined;
  return { type: "boft", rotations, stages, count, size, ...(rescale && { rescale }) };
}
