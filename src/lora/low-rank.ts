/**
 * Exact factors of each kind of adapter, formulas as ComfyUI's comfy/weight_adapter computes them:
 *   LoRA, LoCon  a up down                       a = alpha / rows of down
 *   Tucker       a up V, V = mid x down          (lora_mid)
 *   LoHa         a (w1a w1b) * (w2a w2b)         rank r1 r2; hada_t1, hada_t2 as Tucker
 *   LoKr         a kron(w1, w2)                  rank(w1) rank(w2); a = 1 when neither is factored
 * a is 1 without an alpha. Whatever needs more rank than the limit is refused, never approximated.
 */

import type { AdapterTarget } from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import { toFloat } from "../tensor/index.ts";
import type { AdapterGroup, Part, PartName } from "./adapter-keys.ts";
import { ADAPTER_RANK_MAX } from "./limits.ts";
import {
  hadamard,
  isFinite32,
  kronecker,
  type Matrix,
  type Pair,
  pairOfMatrix,
  scaled,
  transpose,
  tuckerBasis,
} from "./matrix.ts";
import {
  type FactorMemory,
  owned,
  readFactor,
  readTransposed,
  sharedCount,
} from "./read-factor.ts";
import type { LowRank } from "./types.ts";

export type LowRankKind = "lora" | "loha" | "lokr";
export type AdapterKind = LowRankKind | "glora" | "oft" | "diff" | "set" | "bias";

const KIND_OF_PART: Partial<Record<PartName, AdapterKind>> = {
  up: "lora",
  down: "lora",
  mid: "lora",
  a1: "glora",
  a2: "glora",
  b1: "glora",
  b2: "glora",
  oft_blocks: "oft",
  diff: "diff",
  w_norm: "diff",
  set_weight: "set",
};

/** Which kind of adapter the group's tensors spell, or nothing (an alpha alone). */
export function adapterKind({ parts }: AdapterGroup): AdapterKind | undefined {
  const kinds = new Set<AdapterKind>();
  for (const name of parts.keys()) {
    const kind = KIND_OF_PART[name];
    if (name.startsWith("hada_")) kinds.add("loha");
    else if (name.startsWith("lokr_")) kinds.add("lokr");
    else if (kind !== undefined) kinds.add(kind);
  }
  if (kinds.size === 0 && (parts.has("diff_b") || parts.has("b_norm"))) return "bias";
  if (kinds.size > 1) throw malformed(parts, `mixes ${[...kinds].join(" and ")}`);
  return [...kinds][0];
}

/**
 * Factors of one layer. Throws LORA_MALFORMED when a tensor is missing, does not fit the layer or
 * holds NaN or infinity, and LORA_UNSUPPORTED when the exact rank exceeds the limit.
 */
export function lowRank(
  group: AdapterGroup,
  kind: LowRankKind,
  { target, memory }: Readonly<{ target: AdapterTarget; memory: FactorMemory }>,
): LowRank {
  if (kind === "lora" && !group.parts.has("mid")) return plainLora(group.parts, target, memory);
  const { up, down } = {
    lora: loraPair,
    loha: lohaPair,
    lokr: lokrPair,
  }[kind](group.parts, target);
  if (!isFinite32(up.data) || !isFinite32(down.data)) {
    throw malformed(group.parts, "holds NaN or infinity");
  }
  return { rank: up.rows, up: up.data, down: owned(down.data) };
}

export type Parts = AdapterGroup["parts"];

export function firstKey(parts: Parts): string {
  for (const [name, { key }] of parts) if (name !== "alpha") return key;
  return "";
}

export const malformed = (parts: Parts, what: string): LunaError =>
  new LunaError("LORA_MALFORMED", `LoRA layer "${firstKey(parts)}" ${what}.`);

const shapeText = (shape: readonly number[]): string => `[${shape.join(", ")}]`;

export function part(parts: Parts, name: PartName): Part {
  const found = parts.get(name);
  if (found === undefined) throw malformed(parts, `has no matching "${name}" tensor`);
  return found;
}

/** The sizes of a tensor with the axes after the first joined. */
function matrixSize(parts: Parts, name: PartName): Pick<Matrix, "rows" | "columns"> {
  const { key, tensor } = part(parts, name);
  const [rows = 0, ...rest] = tensor.shape;
  const columns = rest.reduce((product, axis) => product * axis, 1);
  if (rows * columns > 0) return { rows, columns };
  const shape = shapeText(tensor.shape);
  throw new LunaError("LORA_MALFORMED", `LoRA tensor "${key}" has the shape ${shape}.`);
}

/** A tensor with the axes after the first joined. */
export function matrix(parts: Parts, name: PartName): Matrix {
  const size = matrixSize(parts, name);
  return { ...size, data: toFloat(part(parts, name).tensor).data };
}

/** Checks a size that must agree and names both shapes when it does not. */
export function expectSize(
  parts: Parts,
  name: PartName,
  check: Readonly<{ actual: number; expected: number; what: string }>,
): void {
  if (check.actual === check.expected) return;
  const { key, tensor } = part(parts, name);
  throw new LunaError(
    "LORA_MALFORMED",
    `LoRA tensor "${key}" ${shapeText(tensor.shape)} does not fit: ${check.what} must be ` +
      `${check.expected}, not ${check.actual}.`,
  );
}

export function layerText({ name, outputs, inputs, kernel, kind }: AdapterTarget): string {
  return `"${name}" ${shapeText([outputs, inputs, ...(kind === "conv" ? kernel : [])])}`;
}

const taps = ({ kernel }: AdapterTarget): number => kernel[0] * kernel[1];

function expectOutputs(
  parts: Parts,
  name: PartName,
  [actual, target]: readonly [number, AdapterTarget],
): void {
  const what = `outputs of ${layerText(target)}`;
  expectSize(parts, name, { actual, expected: target.outputs, what });
}

function expectInputs(
  parts: Parts,
  name: PartName,
  [actual, target]: readonly [number, AdapterTarget],
): void {
  const what = `inputs of ${layerText(target)}`;
  expectSize(parts, name, { actual, expected: target.inputs * taps(target), what });
}

export function expectRank(parts: Parts, rank: number): void {
  if (rank <= ADAPTER_RANK_MAX) return;
  throw new LunaError(
    "LORA_UNSUPPORTED",
    `LoRA layer "${firstKey(parts)}" has rank ${rank}, the limit is ${ADAPTER_RANK_MAX}: ` +
      "resize it to a lower rank or merge it into the checkpoint.",
  );
}

/** alpha / rank, or 1 without an alpha. */
export function alphaScale(parts: Parts, rank: number): number {
  const alpha = parts.get("alpha");
  if (alpha === undefined) return 1;
  const [value, ...more] = toFloat(alpha.tensor).data;
  if (value === undefined || more.length > 0) {
    const shape = shapeText(alpha.tensor.shape);
    throw new LunaError("LORA_MALFORMED", `LoRA tensor "${alpha.key}" ${shape} is not one number.`);
  }
  return value / rank;
}

/** The two factors "a" [outputs, rank] and "b" [rank, inputs], shapes checked against each other. */
function product(parts: Parts, a: PartName, b: PartName): Readonly<{ a: Matrix; b: Matrix }> {
  const left = matrix(parts, a);
  const right = matrix(parts, b);
  expectPair(parts, [a, left.columns], [b, right.rows]);
  return { a: left, b: right };
}

/** Both factors have the same rank, and it is within the limit. */
function expectPair(
  parts: Parts,
  [a, actual]: readonly [PartName, number],
  [b, expected]: readonly [PartName, number],
): void {
  const { key, tensor } = part(parts, b);
  const what = `its rank, from "${key}" ${shapeText(tensor.shape)},`;
  expectSize(parts, a, { actual, expected, what });
  expectRank(parts, expected);
}

/** V of a Tucker core [m, d, kh, kw] and b [d, inputs]; see tuckerBasis. */
function tucker(parts: Parts, core: PartName, b: Matrix): Matrix {
  const values = matrix(parts, core);
  const { shape } = part(parts, core).tensor;
  expectSize(parts, core, { actual: shape[1] ?? 0, expected: b.rows, what: "axis 1" });
  expectRank(parts, values.rows);
  expectRank(parts, b.rows);
  return tuckerBasis(values, b);
}

/** How much of a `FactorMemory` the factors of a layer take. */
export function sharedCountOf({ parts }: AdapterGroup): number {
  const [up, down] = [parts.get("up"), parts.get("down")];
  if (up === undefined || down === undefined || parts.has("mid")) return 0;
  return sharedCount(up.tensor) + sharedCount(down.tensor);
}

/** LoRA and LoCon without a core, read in one pass. */
function plainLora(parts: Parts, target: AdapterTarget, memory: FactorMemory): LowRank {
  const [up, down] = [matrixSize(parts, "up"), matrixSize(parts, "down")];
  expectPair(parts, ["up", up.columns], ["down", down.rows]);
  expectOutputs(parts, "up", [up.rows, target]);
  expectInputs(parts, "down", [down.columns, target]);
  const factor = alphaScale(parts, down.rows);
  const size = [up.rows, up.columns] as const;
  const left = readTransposed(part(parts, "up").tensor, size, { factor, memory });
  const right = readFactor(part(parts, "down").tensor, memory);
  if (left && right) return { rank: down.rows, up: left, down: right };
  throw malformed(parts, "holds NaN or infinity");
}

function loraPair(parts: Parts, target: AdapterTarget): Pair {
  const { a: up, b: down } = product(parts, "up", "down");
  expectOutputs(parts, "up", [up.rows, target]);
  const factor = alphaScale(parts, down.rows);
  const { shape } = part(parts, "mid").tensor;
  expectSize(parts, "mid", { actual: shape[0] ?? 0, expected: up.columns, what: "axis 0" });
  expectTaps(parts, "mid", target);
  expectSize(parts, "down", {
    actual: down.columns,
    expected: target.inputs,
    what: `inputs of ${layerText(target)}`,
  });
  return { up: transpose(up, factor), down: tucker(parts, "mid", down) };
}

/** A Tucker core's last axes must be the layer's kernel. */
function expectTaps(parts: Parts, core: PartName, target: AdapterTarget): void {
  const { shape } = part(parts, core).tensor;
  const actual = shape.slice(2).reduce((size, axis) => size * axis, 1);
  expectSize(parts, core, {
    actual,
    expected: taps(target),
    what: `kernel of ${layerText(target)}`,
  });
}

function lohaPair(parts: Parts, target: AdapterTarget): Pair {
  const half = (side: 1 | 2): Pair => {
    const a: PartName = `hada_w${side}_a`;
    const b: PartName = `hada_w${side}_b`;
    const core: PartName = `hada_t${side}`;
    if (!parts.has("hada_t1")) {
      const { a: left, b: right } = product(parts, a, b);
      expectOutputs(parts, a, [left.rows, target]);
      expectInputs(parts, b, [right.columns, target]);
      return { up: transpose(left), down: right };
    }
    // w_a is [rank, outputs] and w_b [rank, inputs] beside a core [rank, rank, kh, kw].
    const up = matrix(parts, a);
    expectOutputs(parts, a, [up.columns, target]);
    expectTaps(parts, core, target);
    const right = matrix(parts, b);
    expectInputs(parts, b, [right.columns * taps(target), target]);
    const down = tucker(parts, core, right);
    expectSize(parts, a, {
      actual: up.rows,
      expected: down.rows,
      what: "its rank, from the core,",
    });
    return { up, down };
  };
  const first = half(1);
  const second = half(2);
  expectRank(parts, first.up.rows * second.up.rows);
  const factor = alphaScale(parts, matrix(parts, "hada_w1_b").rows);
  return hadamard({ up: scaled(first.up, factor), down: first.down }, second);
}

/** One side of a LoKr; `dim` is its rank if it is factored. */
function kroneckerSide(
  parts: Parts,
  side: 1 | 2,
  target: AdapterTarget,
): Readonly<{ pair: Pair; dim?: number }> {
  const full: PartName = `lokr_w${side}`;
  const a: PartName = `lokr_w${side}_a`;
  const b: PartName = `lokr_w${side}_b`;
  if (parts.has(full)) {
    const whole = matrix(parts, full);
    expectRank(parts, Math.min(whole.rows, whole.columns));
    return { pair: pairOfMatrix(whole) };
  }
  if (side === 2 && parts.has("lokr_t2")) {
    const up = matrix(parts, a);
    const right = matrix(parts, b);
    // Before the basis is made, its size must be known to fit.
    expectTaps(parts, "lokr_t2", target);
    if (right.columns > target.inputs) expectInputs(parts, b, [right.columns, target]);
    const down = tucker(parts, "lokr_t2", right);
    expectSize(parts, a, {
      actual: up.rows,
      expected: down.rows,
      what: "its rank, from the core,",
    });
    return { pair: { up, down }, dim: right.rows };
  }
  const { a: left, b: right } = product(parts, a, b);
  return { pair: { up: transpose(left), down: right }, dim: right.rows };
}

function lokrPair(parts: Parts, target: AdapterTarget): Pair {
  const first = kroneckerSide(parts, 1, target);
  const second = kroneckerSide(parts, 2, target);
  const outputs = first.pair.up.columns * second.pair.up.columns;
  const inputs = first.pair.down.columns * second.pair.down.columns;
  const name = parts.has("lokr_w2") ? "lokr_w2" : "lokr_w2_a";
  expectOutputs(parts, name, [outputs, target]);
  expectInputs(parts, parts.has("lokr_w2") ? "lokr_w2" : "lokr_w2_b", [inputs, target]);
  expectRank(parts, first.pair.up.rows * second.pair.up.rows);
  // ComfyUI divides by the second side's rank if that side is factored, else by the first's.
  const dim = second.dim ?? first.dim;
  const factor = dim === undefined ? 1 : alphaScale(parts, dim);
  return kronecker({ up: scaled(first.pair.up, factor), down: first.pair.down }, second.pair);
}
