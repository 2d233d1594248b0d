import { LunaError } from "../kernel/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { isWireDType, toF32 } from "./float-tensors.ts";
import { LORA_RANK_MAX } from "./limits.ts";

/** A client's LoRA, by component, then `<layer>.<part>`; docs/protocol.md has the parts. */
export type LoraFactors = Readonly<{
  components: ReadonlyMap<string, ReadonlyMap<string, Tensor>>;
  bytes: number;
}>;

const PARTS = "down|up|bias|gain|multiply|a1|a2|dora_row|dora_column|dora_factor|diff|set|oft|boft";
const NAME = new RegExp(`^(unet|clip-l|clip-g|clip-h)\\.(.+\\.(?:${PARTS}))$`);

function malformed(problem: string): LunaError {
  return new LunaError("LORA_MALFORMED", `The LoRA factors are malformed: ${problem}`);
}

/**
 * Checks names, pairs and ranks, and brings all factors to float32; whether they fit the layers the
 * engine says. Throws LORA_MALFORMED.
 */
export function parseLoraFactors(tensors: ReadonlyMap<string, Tensor>): LoraFactors {
  if (tensors.size === 0) throw malformed("there are none.");
  const components = new Map<string, Map<string, Tensor>>();
  let bytes = 0;
  for (const [name, tensor] of tensors) {
    const [, component, factor] = NAME.exec(name) ?? [];
    if (component === undefined || factor === undefined) {
      throw malformed(`"${name}" is not "unet.<layer>.down" or "clip-l.<layer>.up".`);
    }
    if (!isWireDType(tensor.dtype)) throw malformed(`"${name}" has the type ${tensor.dtype}.`);
    const factors = components.get(component) ?? new Map<string, Tensor>();
    components.set(component, factors);
    const value = toF32(name, tensor);
    factors.set(factor, value);
    bytes += value.bytes.byteLength;
  }
  for (const [component, factors] of components) checkPairs(component, factors);
  return { components, bytes };
}

function checkPairs(component: string, factors: ReadonlyMap<string, Tensor>): void {
  for (const [name, tensor] of factors) {
    const isDown = name.endsWith(".down");
    if (!isDown && !name.endsWith(".up")) continue;
    const layer = name.slice(0, name.lastIndexOf("."));
    const other = factors.get(`${layer}.${isDown ? "up" : "down"}`);
    const [rank = 0] = tensor.shape;
    if (!other) throw malformed(`${component}.${layer} has only one of its two factors.`);
    if (rank !== other.shape[0]) {
      throw malformed(`${component}.${layer} has the ranks ${rank} and ${other.shape[0]}.`);
    }
    if (rank < 1 || rank > LORA_RANK_MAX) {
      throw malformed(`${component}.${layer} has rank ${rank}, 1 to ${LORA_RANK_MAX} are served.`);
    }
    const isShaped = isDown ? tensor.shape.length >= 2 : tensor.shape.length === 2;
    if (!isShaped) throw malformed(`${component}.${name} has ${tensor.shape.length} axes.`);
  }
}
