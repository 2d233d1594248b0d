/**
 * Splits the keys of an adapter file into layer and part. Suffixes as ComfyUI reads them
 * (comfy/weight_adapter), plus those whose meaning must not be dropped in silence.
 */
import type { Safetensors, Tensor } from "../tensor/index.ts";

/** Tensors of which patches are made, and "alpha". */
export type PartName =
  | "up"
  | "down"
  | "mid"
  | "alpha"
  | "hada_w1_a"
  | "hada_w1_b"
  | "hada_w2_a"
  | "hada_w2_b"
  | "hada_t1"
  | "hada_t2"
  | "lokr_w1"
  | "lokr_w2"
  | "lokr_w1_a"
  | "lokr_w1_b"
  | "lokr_w2_a"
  | "lokr_w2_b"
  | "lokr_t2"
  | "dora_scale"
  | "a1"
  | "a2"
  | "b1"
  | "b2"
  | "oft_blocks"
  | "rescale"
  | "diff"
  | "set_weight"
  | "w_norm"
  | "diff_b"
  | "b_norm";

export type Part = Readonly<{ key: string; tensor: Tensor }>;

/** All tensors of one layer, as the file names it. */
export type AdapterGroup = Readonly<{
  layer: string;
  parts: ReadonlyMap<PartName, Part>;
  /** First key of a kind that is refused, if any. */
  refused?: Readonly<{ key: string; format: string }>;
  keys: readonly string[];
}>;

const PARTS: ReadonlyMap<string, PartName> = new Map<string, PartName>([
  [".lora_up.weight", "up"],
  [".lora_down.weight", "down"],
  [".lora_mid.weight", "mid"],
  [".lora_up", "up"],
  [".lora_down", "down"],
  [".lora_B.weight", "up"],
  [".lora_A.weight", "down"],
  [".lora_B", "up"],
  [".lora_A", "down"],
  [".lora_B.default.weight", "up"],
  [".lora_A.default.weight", "down"],
  [".lora.up.weight", "up"],
  [".lora.down.weight", "down"],
  [".lora_linear_layer.up.weight", "up"],
  [".lora_linear_layer.down.weight", "down"],
  ["_lora.up.weight", "up"],
  ["_lora.down.weight", "down"],
  [".alpha", "alpha"],
  [".hada_w1_a", "hada_w1_a"],
  [".hada_w1_b", "hada_w1_b"],
  [".hada_w2_a", "hada_w2_a"],
  [".hada_w2_b", "hada_w2_b"],
  [".hada_t1", "hada_t1"],
  [".hada_t2", "hada_t2"],
  [".lokr_w1", "lokr_w1"],
  [".lokr_w2", "lokr_w2"],
  [".lokr_w1_a", "lokr_w1_a"],
  [".lokr_w1_b", "lokr_w1_b"],
  [".lokr_w2_a", "lokr_w2_a"],
  [".lokr_w2_b", "lokr_w2_b"],
  [".lokr_t2", "lokr_t2"],
  [".dora_scale", "dora_scale"],
  [".a1.weight", "a1"],
  [".a2.weight", "a2"],
  [".b1.weight", "b1"],
  [".b2.weight", "b2"],
  [".oft_blocks", "oft_blocks"],
  [".rescale", "rescale"],
  [".diff", "diff"],
  [".set_weight", "set_weight"],
  [".w_norm", "w_norm"],
  [".diff_b", "diff_b"],
  [".b_norm", "b_norm"],
]);

/** Parts that ComfyUI does not read, or that change a layer's shape: dropping them would be wrong. */
const REFUSED: ReadonlyMap<string, string> = new Map([
  [".lora_magnitude_vector", "DoRA"],
  [".lora_magnitude_vector.weight", "DoRA"],
  [".lora_magnitude_vector.default.weight", "DoRA"],
  [".oft_diag", "OFT"],
  [".oft_R.weight", "OFT"],
  [".on_input", "IA3"],
  [".reshape_weight", "an enlarged weight"],
  [".lora_B.bias", "LoRA with a bias"],
  [".lora_up.bias", "LoRA with a bias"],
  [".lora.up.bias", "LoRA with a bias"],
]);

/** Dots in the longest suffix. */
const SUFFIX_DOTS_MAX = 3;

/** Where the longest known suffix of `key` begins, or -1. */
function findSuffix(key: string): number {
  let found = -1;
  let dot = key.length;
  for (let dots = 0; dots < SUFFIX_DOTS_MAX && dot > 0; dots++) {
    dot = key.lastIndexOf(".", dot - 1);
    if (dot < 0) break;
    const suffix = key.slice(dot);
    if (PARTS.has(suffix) || REFUSED.has(suffix)) found = dot;
    // Attention processors: "to_q_lora.up.weight" belongs to the layer "to_q".
    const lora = dot - "_lora".length;
    if (key.startsWith("_lora", lora) && PARTS.has(key.slice(lora))) found = lora;
  }
  return found;
}

type MutableGroup = {
  layer: string;
  parts: Map<PartName, Part>;
  refused?: { key: string; format: string };
  keys: string[];
};

/**
 * Groups the file's tensors by layer, in the file's order. `otherKeys` end in nothing known. A
 * part given twice under two spellings is kept once, the first; its second key is an other key.
 */
export function groupAdapterKeys(file: Safetensors): {
  groups: readonly AdapterGroup[];
  otherKeys: readonly string[];
} {
  const groups = new Map<string, MutableGroup>();
  const otherKeys: string[] = [];
  for (const [key, tensor] of file.tensors) {
    const at = findSuffix(key);
    const suffix = at < 0 ? "" : key.slice(at);
    const part = PARTS.get(suffix);
    const format = REFUSED.get(suffix);
    const layer = key.slice(0, Math.max(at, 0));
    if (layer === "" || (part === undefined && format === undefined)) {
      otherKeys.push(key);
      continue;
    }
    let group = groups.get(layer);
    if (group === undefined) {
      group = { layer, parts: new Map(), keys: [] };
      groups.set(layer, group);
    }
    if (part !== undefined && group.parts.has(part)) {
      otherKeys.push(key);
      continue;
    }
    group.keys.push(key);
    if (part !== undefined) group.parts.set(part, { key, tensor });
    else if (format !== undefined) group.refused ??= { key, format };
  }
  return { groups: [...groups.values()], otherKeys };
}
