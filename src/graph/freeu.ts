/**
 * FreeU (arXiv 2309.11497), both versions, as ComfyUI's nodes compute them: where an output block
 * takes a skip, the first half of h is scaled by `backbone` and the low frequencies of the skip by
 * `skip`. Version 2 weighs the backbone's scale by the mean over the channels, normalized per row.
 *
 * With a threshold of 1 the filter touches the frequencies {-1, 0} of each axis alone. With
 * P[m, n] = (1/N) sum over k in {-1, 0} of exp(2 pi i k (m - n) / N) = C - i S, real C and S,
 *   filtered = x + (skip - 1) Re(P_h x P_w^T) = x + (skip - 1) (C_h x C_w + S_h x S_w):
 * four small matrices and no Fourier transform.
 *
 * Inputs of a full graph, for scale 0 (blocks of 4 x modelChannels) and 1 (2 x modelChannels):
 *   freeu.S.backbone, freeu.S.skip [batch, 1, 1, 1]   1 is neutral
 *   freeu.version [batch, 1, 1, 1]                    1 or 2
 *   freeu.level.L.{rows,columns}.{cosine,sine}        lowFrequencies of the level's height, width
 */
import assert from "node:assert";
import type { UNetConfig } from "../checkpoint/index.ts";
import type { GraphBuilder, Value } from "./graph-builder.ts";
import { int } from "./onnx.ts";

/** Names of the matrices of a level. */
export function frequencyInputs(
  level: number,
): Record<"rows" | "columns", Record<"cosine" | "sine", string>> {
  const names = (axis: string) => ({
    cosine: `freeu.level.${level}.${axis}.cosine`,
    sine: `freeu.level.${level}.${axis}.sine`,
  });
  return { rows: names("rows"), columns: names("columns") };
}

/** C and S, [size, size]: what is left of an axis at the frequencies -1 and 0. */
export function lowFrequencies(size: number): { cosine: Float32Array; sine: Float32Array } {
  const cosine = new Float32Array(size * size);
  const sine = new Float32Array(size * size);
  for (let m = 0; m < size; m++) {
    for (let n = 0; n < size; n++) {
      const angle = (2 * Math.PI * (m - n)) / size;
      // A single cell has the frequency 0 only.
      cosine[m * size + n] = size === 1 ? 1 : (1 + Math.cos(angle)) / size;
      sine[m * size + n] = size === 1 ? 0 : Math.sin(angle) / size;
    }
  }
  return { cosine, sine };
}

/** Which scale acts on h of this width, if any; the wider one where both would. */
function scaleOf(config: UNetConfig, width: number): 0 | 1 | undefined {
  if (width === 4 * config.modelChannels) return 0;
  return width === 2 * config.modelChannels ? 1 : undefined;
}

const input = (b: GraphBuilder, name: string, shape: readonly (string | number)[]): Value =>
  b.hasInput(name) ? name : b.input(name, shape);

/** h and the skip an output block joins, after FreeU; as they are where it does not act. */
export function freeU(
  b: GraphBuilder,
  block: Readonly<{ config: UNetConfig; h: Value; skip: Value; width: number; level: number }>,
): { h: Value; skip: Value } {
  const { h, skip, width, level } = block;
  const scale = scaleOf(block.config, width);
  if (!b.isFull || scale === undefined) return { h, skip };
  const row = (name: string): Value => input(b, name, ["batch", 1, 1, 1]);
  return {
    h: scaleBackbone(b, h, {
      backbone: row(`freeu.${scale}.backbone`),
      version: row("freeu.version"),
      width,
    }),
    skip: filterSkip(b, skip, { amount: row(`freeu.${scale}.skip`), level }),
  };
}

function scaleBackbone(
  b: GraphBuilder,
  h: Value,
  inputs: Readonly<{ backbone: Value; version: Value; width: number }>,
): Value {
  const { backbone, version, width } = inputs;
  const half = Math.floor(width / 2);
  const one = b.floats([1]);
  const mean = b.node("ReduceMean", [h, b.integers([1])]);
  const lowest = b.node("ReduceMin", [mean, b.integers([1, 2, 3])]);
  const highest = b.node("ReduceMax", [mean, b.integers([1, 2, 3])]);
  const spread = b.node("Sub", [highest, lowest]);
  const normal = b.node("Div", [b.node("Sub", [mean, lowest]), spread]);
  // Chosen, not blended: where all means are equal the division gives NaN.
  const weight = b.node("Where", [b.node("Greater", [version, b.floats([1.5])]), normal, one]);
  const extra = b.node("Mul", [b.node("Sub", [backbone, one]), weight]);
  const [first, rest] = b.nodes("Split", [h, b.integers([half, width - half])], {
    attributes: { axis: int(1) },
    outputCount: 2,
  });
  assert(first !== undefined && rest !== undefined);
  const scaled = b.node("Mul", [first, b.node("Add", [extra, one])]);
  return b.node("Concat", [scaled, rest], { attributes: { axis: int(1) } });
}

function filterSkip(
  b: GraphBuilder,
  skip: Value,
  inputs: Readonly<{ amount: Value; level: number }>,
): Value {
  const { amount, level } = inputs;
  const names = frequencyInputs(level);
  const part = (kind: "cosine" | "sine"): Value => {
    const rows = input(b, names.rows[kind], [`height.${level}`, `height.${level}`]);
    const columns = input(b, names.columns[kind], [`width.${level}`, `width.${level}`]);
    return b.node("MatMul", [b.node("MatMul", [rows, skip]), columns]);
  };
  const low = b.node("Add", [part("cosine"), part("sine")]);
  const change = b.node("Mul", [low, b.node("Sub", [amount, b.floats([1])])]);
  return b.node("Add", [skip, change]);
}
