import type { AdapterTarget } from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import { type Tensor, toFloat } from "../tensor/index.ts";
import { cayley } from "./dense-patch.ts";
import { ADAPTER_RANK_MAX, OFT_BLOCK_MAX } from "./limits.ts";
import { isFinite32 } from "./matrix.ts";
import type { DensePatch, LayerPatch } from "./types.ts";

const SIDES = [
  ...["down", "up", "bias", "gain", "multiply", "a1", "a2", "diff", "set", "oft", "boft"],
  ...["dora_row", "dora_column", "dora_factor"],
] as const;
type Side = (typeof SIDES)[number];

/**
 * Checks the patches a client has sent, tensors `${layer}.PART`: `down` [rank, inputs * kernel] (or
 * with separate axes) and `up` [rank, outputs], alpha folded in, and those of docs/protocol.md
 * section 5. F32 is a view, no copy. Throws LORA_MALFORMED naming the tensor.
 */
export function factorsFromTensors(
  tensors: ReadonlyMap<string, Tensor>,
  targets: readonly AdapterTarget[],
): ReadonlyMap<string, LayerPatch> {
  const byName = new Map(targets.map((target) => [target.name, target]));
  const factors = new Map<string, LayerPatch>();
  for (const name of tensors.keys()) {
    const dot = name.lastIndexOf(".");
    const target = byName.get(name.slice(0, dot));
    if (target === undefined || !SIDES.some((side) => side === name.slice(dot + 1))) {
      throw malformed(
        `Factor "${name}" is not "LAYER.down" or "LAYER.up" of a layer of the model, nor another of its parts.`,
      );
    }
    if (!factors.has(target.name))
      factors.set(target.name, new LayerReader(tensors, target).read());
  }
  return factors;
}

class LayerReader {
  readonly #tensors: ReadonlyMap<string, Tensor>;
  readonly #target: AdapterTarget;

  constructor(tensors: ReadonlyMap<string, Tensor>, target: AdapterTarget) {
    this.#tensors = tensors;
    this.#target = target;
  }

  read(): LayerPatch {
    const { inputs, outputs, kernel, kind } = this.#target;
    const isNorm = kind === "layer-norm" || kind === "group-norm";
    const taps = kernel[0] * kernel[1];
    const bias = this.#values("bias", [outputs]);
    if (isNorm) {
      const gain = this.#values("gain", [outputs]);
      return { ...this.#pair(0), ...(bias && { bias }), ...(gain && { gain }) };
    }
    const multiply = this.#values("multiply", [1])?.[0];
    const inner = this.#inner();
    const dense = this.#dense(outputs * inputs * taps);
    const magnitude = this.#magnitude();
    if (dense?.type === "replacement" && magnitude !== undefined) {
      throw malformed(`Factors of "${this.#target.name}" replace the weight and are DoRA too.`);
    }
    return {
      ...this.#pair(inputs * taps),
      ...(bias && { bias }),
      ...(multiply !== undefined && { multiply }),
      ...(inner && { inner }),
      ...(dense && { dense }),
      ...(magnitude && { magnitude }),
    };
  }

  #pair(columns: number): Pick<LayerPatch, "rank" | "down" | "up"> {
    const { name, outputs } = this.#target;
    const isThere = this.#tensor("down") !== undefined || this.#tensor("up") !== undefined;
    if (!isThere) return { rank: 0, down: new Float32Array(0), up: new Float32Array(0) };
    const rank = this.#tensor("down")?.shape[0] ?? 0;
    if (columns === 0 || rank < 1 || rank > ADAPTER_RANK_MAX) {
      throw malformed(`Factor "${name}.down" has rank ${rank}, not 1 to ${ADAPTER_RANK_MAX}.`);
    }
    const down = this.#needed("down", [rank, columns]);
    return { rank, down, up: this.#needed("up", [rank, outputs]) };
  }

  #inner(): LayerPatch["inner"] {
    const rank = this.#tensor("a2")?.shape[0];
    if (rank === undefined && this.#tensor("a1") === undefined) return undefined;
    const { name, inputs } = this.#target;
    if (rank === undefined || rank < 1 || rank > ADAPTER_RANK_MAX) {
      throw malformed(`Factor "${name}.a2" has rank ${rank}, not 1 to ${ADAPTER_RANK_MAX}.`);
    }
    return {
      rank,
      a1: this.#needed("a1", [inputs, rank]),
      a2: this.#needed("a2", [rank, inputs]),
    };
  }

  #magnitude(): LayerPatch["magnitude"] {
    const { inputs, outputs } = this.#target;
    const row = this.#values("dora_row", [outputs]);
    const values = row ?? this.#values("dora_column", [inputs]);
    const deltaFactor = this.#values("dora_factor", [1])?.[0];
    if (values === undefined) return undefined;
    const factor = deltaFactor === undefined ? {} : { deltaFactor };
    return { axis: row ? "row" : "column", values, ...factor };
  }

  #dense(count: number): DensePatch | undefined {
    const difference = this.#values("diff", [count]);
    if (difference !== undefined) return { type: "difference", values: difference };
    const replacement = this.#values("set", [count]);
    if (replacement !== undefined) return { type: "replacement", values: replacement };
    const side = this.#tensor("oft") === undefined ? "boft" : "oft";
    const shape = this.#tensor(side)?.shape;
    if (shape === undefined) return undefined;
    const [stages = 0, blocks = 0, size = 0] = side === "oft" ? [1, ...shape] : shape;
    const { name, outputs } = this.#target;
    const step = 2 ** stages * Math.floor(size / 2);
    const isWhole = side === "oft" || (size % 2 === 0 && outputs % step === 0);
    if (blocks * size !== outputs || size > OFT_BLOCK_MAX || stages < 1 || !isWhole) {
      throw malformed(`Factor "${name}.${side}" [${shape.join(", ")}] does not fit the layer.`);
    }
    const values = this.#needed(side, [stages, blocks, size, size]);
    const rotations = cayley(values, { size, limit: 0 });
    return side === "oft"
      ? { type: "oft", rotations, count: blocks, size }
      : { type: "boft", rotations, stages, count: blocks, size };
  }

  #tensor(side: Side): Tensor | undefined {
    return this.#tensors.get(`${this.#target.name}.${side}`);
  }

  #needed(side: Side, axes: readonly number[]): Float32Array {
    const values = this.#values(side, axes);
    if (values !== undefined) return values;
    throw malformed(`Factor "${this.#target.name}.${side}" is missing.`);
  }

  /** Values of a part with as many elements as `axes` say, the first axis (if there are more) equal. */
  #values(side: Side, axes: readonly number[]): Float32Array | undefined {
    const tensor = this.#tensor(side);
    if (tensor === undefined) return undefined;
    const { data, shape } = toFloat(tensor);
    const key = `${this.#target.name}.${side}`;
    const count = axes.reduce((product, axis) => product * axis, 1);
    const isFirstWrong = side !== "oft" && axes.length > 1 && shape[0] !== axes[0];
    if (isFirstWrong || data.length !== count) {
      throw malformed(`Factor "${key}" is [${shape.join(", ")}], not [${axes.join(", ")}].`);
    }
    if (!isFinite32(data)) throw malformed(`Factor "${key}" holds NaN or infinity.`);
    return data;
  }
}

const malformed = (message: string): LunaError => new LunaError("LORA_MALFORMED", message);
