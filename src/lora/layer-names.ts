/**
 * From the many names adapter files give a layer to the layer itself. Every dotted name is looked
 * up with its dots as underscores, as kohya writes them, so one index a net serves all formats.
 */
import { type TextEncoderKind, unetDiffusersNames } from "../checkpoint/index.ts";
import type { AdapterTarget } from "../graph/index.ts";
import type { LoraModel } from "./types.ts";

export type NetName = "unet" | TextEncoderKind;

/** Which net a name belongs to (absent when the model lacks it) and which layer, if it has it. */
export type ResolvedLayer = Readonly<{
  net?: NetName;
  target?: AdapterTarget;
  /** Of the layer's spellings, ComfyUI reads that with the higher number last; -1: it knows it not. */
  order?: number;
  /** A UNet's name where the file has text encoders only, or the reverse: another file's business. */
  isElsewhere?: true;
}>;

type LayerIndex = ReadonlyMap<string, AdapterTarget>;

/** PEFT wraps the model it adapts; the wrapper stands before or after the net's own prefix. */
const PEFT_PREFIX = "base_model.model.";
const UNET_PREFIXES = [
  "lora_unet_",
  "lycoris_",
  "unet.",
  "model.diffusion_model.",
  "diffusion_model.",
];
/**
 * In the order of ComfyUI's key map. Candidates in order: the first that the model has. SDXL: te1 is
 * CLIP-L, te2 is OpenCLIP-G.
 */
const TEXT_PREFIXES: readonly (readonly [string, readonly TextEncoderKind[]])[] = [
  ["text_encoders.clip_l.transformer.", ["clip-l"]],
  ["text_encoders.clip_g.transformer.", ["clip-g"]],
  ["text_encoders.clip_h.transformer.", ["clip-h"]],
  ["lora_te_", ["clip-l", "clip-h", "clip-g"]],
  ["lora_te1_", ["clip-l", "clip-h"]],
  ["lora_te2_", ["clip-g"]],
  ["text_encoder.", ["clip-l", "clip-h", "clip-g"]],
  ["text_encoder_2.", ["clip-g"]],
];

const flatten = (name: string): string => name.replaceAll(".", "_");
const withoutPrefix = (name: string, prefix: string): string =>
  name.startsWith(prefix) ? name.slice(prefix.length) : name;

function indexLayers(targets: readonly AdapterTarget[]): Map<string, AdapterTarget> {
  const index = new Map<string, AdapterTarget>();
  for (const target of targets) addName(index, target.name, target);
  return index;
}

function addName(index: Map<string, AdapterTarget>, name: string, target: AdapterTarget): void {
  const flat = flatten(name);
  index.set(flat, target);
  // diffusers' attention processors call to_out.0 to_out.
  if (flat.endsWith("_to_out_0")) index.set(flat.slice(0, -2), target);
}

type UNetNames = Readonly<{
  index: LayerIndex;
  /** diffusers' names of each layer, in the order of ComfyUI's key map. */
  diffusers: ReadonlyMap<string, readonly string[]>;
}>;

function nameUNet({ config, targets }: NonNullable<LoraModel["unet"]>): UNetNames {
  const index = indexLayers(targets);
  const byName = new Map(targets.map((target) => [target.name, target]));
  const diffusers = new Map<string, readonly string[]>();
  for (const [name, canonical] of unetDiffusersNames(config)) {
    const target = byName.get(canonical);
    if (target === undefined) continue;
    addName(index, name, target);
    // Size conditioning has two names, class_embedding the earlier.
    diffusers.set(canonical, [name, ...(diffusers.get(canonical) ?? [])]);
  }
  return { index, diffusers };
}

/** A UNet layer's names in the order in which ComfyUI's `model_lora_keys_unet` has them. */
function spellings(canonical: string, diffusers: readonly string[]): string[] {
  const theirs = diffusers.flatMap((name) => {
    const flat = flatten(name);
    const processor = name.replaceAll(".to_", ".processor.to_").replace(/\.to_out\.0$/, ".to_out");
    return [`lora_unet_${flat}`, `lycoris_${flat}`, processor, `unet.${processor}`];
  });
  return [`lora_unet_${flatten(canonical)}`, `diffusion_model.${canonical}`, ...theirs];
}

type LayerResolver = (name: string) => ResolvedLayer;

const resolvers = new WeakMap<LoraModel, LayerResolver>();

/** The look-up of one model, made once: a file's layer name to the net and layer it means. */
export function layerResolver(model: LoraModel): LayerResolver {
  const resolver = resolvers.get(model) ?? createLayerResolver(model);
  resolvers.set(model, resolver);
  return resolver;
}

function createLayerResolver(model: LoraModel): LayerResolver {
  const unet = model.unet && nameUNet(model.unet);
  const text = new Map([...model.text].map(([kind, targets]) => [kind, indexLayers(targets)]));

  function resolveText(name: string, at: number): ResolvedLayer {
    const [prefix = "", kinds = []] = TEXT_PREFIXES[at] ?? [];
    if (text.size === 0) return { isElsewhere: true };
    const net = kinds.find((kind) => text.has(kind));
    if (net === undefined) return {};
    const rest = withoutPrefix(withoutPrefix(name, PEFT_PREFIX).slice(prefix.length), PEFT_PREFIX);
    const target = text.get(net)?.get(flatten(rest));
    const order = name === `${prefix}${rest}` ? at : -1;
    return target === undefined ? { net } : { net, target, order };
  }
  return (name) => {
    const bare = withoutPrefix(name, PEFT_PREFIX);
    const textAt = TEXT_PREFIXES.findIndex(([prefix]) => bare.startsWith(prefix));
    if (textAt >= 0) return resolveText(name, textAt);
    const known = UNET_PREFIXES.find((candidate) => bare.startsWith(candidate));
    if (unet === undefined) return known === undefined ? {} : { isElsewhere: true };
    const prefix = known ?? "";
    const rest = withoutPrefix(bare.slice(prefix.length), PEFT_PREFIX);
    const target = unet.index.get(flatten(rest).replace("_processor_", "_"));
    if (target === undefined) return { net: "unet" };
    const order = spellings(target.name, unet.diffusers.get(target.name) ?? []).indexOf(name);
    return { net: "unet", target, order };
  };
}
