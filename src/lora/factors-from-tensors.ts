import type { AdapterTarget } from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import { type Tensor, toFloat } from "../tensor/index.ts";
import { ADAPTER_RANK_MAX } from "./limits.ts";
import { isFinite32 } from "./matrix.ts";
import type { LowRank } from "./types.ts";

/**
 * Checks the factors a client has sent: `${layer}.down` [rank, inputs * kernel] (or with separate
 * axes) and `${layer}.up` [rank, outputs], alpha folded in. F32 is a view, no copy.
 * Throws LORA_MALFORMED naming the tensor.
 */
export function factorsFromTensors(
  tensors: ReadonlyMap<string, Tensor>,
  targets: readonly AdapterTarget[],
): ReadonlyMap<string, LowRank> {
  const byName = new Map(targets.map((target) => [target.name, target]));
  const factors = new Map<string, LowRank>();
  for (const name of tensors.keys()) {
    const [layer, side] = splitSide(name);
    const target = byName.get(layer);
    if (target === undefined || side === undefined) {
      throw malformed(
        `Factor "${name}" is not "LAYER.down" or "LAYER.up" of a layer of the model.`,
      );
    }
    if (!factors.has(layer)) factors.set(layer, layerFactors(tensors, target));
  }
  return factors;
}

function splitSide(name: string): readonly [layer: string, side?: "down" | "up"] {
  if (name.endsWith(".down")) return [name.slice(0, -".down".length), "down"];
  if (name.endsWith(".up")) return [name.slice(0, -".up".length), "up"];
  return [name];
}

function layerFactors(tensors: ReadonlyMap<string, Tensor>, target: AdapterTarget): LowRank {
  const { name, inputs, outputs, kernel } = target;
  const rank = tensors.get(`${name}.down`)?.shape[0] ?? 0;
  if (rank < 1 || rank > ADAPTER_RANK_MAX) {
    throw malformed(`Factor "${name}.down" has rank ${rank}, not 1 to ${ADAPTER_RANK_MAX}.`);
  }
  const read = (key: string, columns: number): Float32Array => {
    const tensor = tensors.get(key);
    if (tensor === undefined) throw malformed(`Factor "${key}" is missing.`);
    const { data, shape } = toFloat(tensor);
    if (shape[0] !== rank || data.length !== rank * columns) {
      throw malformed(`Factor "${key}" is [${shape.join(", ")}], not [${rank}, ${columns}].`);
    }
    if (!isFinite32(data)) throw malformed(`Factor "${key}" holds NaN or infinity.`);
    return data;
  };
  const down = read(`${name}.down`, inputs * kernel[0] * kernel[1]);
  return { rank, down, up: read(`${name}.up`, outputs) };
}

const malformed = (message: string): LunaError => new LunaError("LORA_MALFORMED", message);
