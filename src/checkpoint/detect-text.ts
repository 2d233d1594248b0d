/**
 * Finds CLIP text encoders, stored as transformers' CLIPTextModel or as OpenCLIP. OpenCLIP keeps
 * q, k and v in one `attn.in_proj_weight` [3 * width, width]: rows are contiguous, so each becomes
 * a slice of the same bytes; its `text_projection` is the transpose of a Linear's weight.
 */
import { DTYPE_BYTES } from "../tensor/index.ts";
import { TEXT_LAYERS_MAX } from "./limits.ts";
import { textLayers } from "./text-layers.ts";
import type { Component, Family, TextEncoderConfig, TextEncoderKind, WeightRef } from "./types.ts";
import { unsupported } from "./unsupported.ts";
import { axisOf, below, countRow, type Entries, type Find, takeWeights } from "./weights.ts";

type Place = Readonly<{ prefix: string; kind: TextEncoderKind }>;

/** Where full checkpoints and single files keep text encoders, and which one it usually is. */
function places(family: Family | undefined): Place[] {
  const openclip = family === "sd2" ? "clip-h" : "clip-g";
  return [
    { prefix: "cond_stage_model.transformer.", kind: "clip-l" },
    { prefix: "cond_stage_model.model.", kind: "clip-h" },
    { prefix: "cond_stage_model.", kind: "clip-l" },
    { prefix: "conditioner.embedders.0.transformer.", kind: "clip-l" },
    // SDXL's refiner, and SD2 in the naming of SGM.
    { prefix: "conditioner.embedders.0.model.", kind: openclip },
    { prefix: "conditioner.embedders.1.model.", kind: "clip-g" },
    { prefix: "clip_l.transformer.", kind: "clip-l" },
    { prefix: "clip_h.transformer.", kind: "clip-h" },
    { prefix: "clip_g.transformer.", kind: "clip-g" },
    { prefix: "text_encoder.", kind: family === "sd2" ? "clip-h" : "clip-l" },
    { prefix: "text_encoder_2.", kind: "clip-g" },
    { prefix: "model.", kind: openclip },
    { prefix: "", kind: openclip },
  ];
}

/** Widths of the published encoders; narrower ones are told apart by where they lie. */
const KIND_OF_WIDTH: ReadonlyMap<number, TextEncoderKind> = new Map([
  [768, "clip-l"],
  [1024, "clip-h"],
  [1280, "clip-g"],
]);
const ORDER: readonly TextEncoderKind[] = ["clip-l", "clip-h", "clip-g"];
const HEAD_CHANNELS = 64;

type Layout = Readonly<{ find: Find; layers: number; projection: number; isOpenClip: boolean }>;

function transformersLayout(entries: Entries): Layout | undefined {
  // Some SD1 checkpoints leave "text_model." out.
  const root = ["text_model.", ""].find((r) =>
    entries.has(`${r}embeddings.token_embedding.weight`),
  );
  if (root === undefined) return undefined;
  const find: Find = (name) => entries.get(name.replace(/^text_model\./, root));
  const layers = countRow(entries, (i) => `${root}encoder.layers.${i}.layer_norm1.weight`, {
    max: TEXT_LAYERS_MAX,
    what: "layers in a text encoder",
  });
  const hasProjection = entries.has("text_projection.weight");
  const projection = hasProjection ? axisOf(entries, "text_projection.weight", 0) : 0;
  return { find, layers, projection, isOpenClip: false };
}

const OPENCLIP_NAMES: Readonly<Record<string, string>> = {
  "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
  "text_model.embeddings.position_embedding.weight": "positional_embedding",
  "text_model.final_layer_norm.weight": "ln_final.weight",
  "text_model.final_layer_norm.bias": "ln_final.bias",
};

const OPENCLIP_LAYERS: Readonly<Record<string, string>> = {
  layer_norm1: "ln_1",
  layer_norm2: "ln_2",
  "mlp.fc1": "mlp.c_fc",
  "mlp.fc2": "mlp.c_proj",
  "self_attn.out_proj": "attn.out_proj",
};

const FUSED = ["q_proj", "k_proj", "v_proj"];

/** Third `part` of a tensor's rows. */
function third(fused: WeightRef | undefined, part: number): WeightRef | undefined {
  const rows = fused?.shape[0];
  if (fused === undefined || rows === undefined || rows % 3 !== 0) return undefined;
  const shape = [rows / 3, ...fused.shape.slice(1)];
  const bytes = shape.reduce((product, axis) => product * axis, DTYPE_BYTES[fused.dtype]);
  const begin = fused.begin + part * bytes;
  return { dtype: fused.dtype, shape, begin, end: begin + bytes };
}

function findOpenClip(entries: Entries, name: string): WeightRef | undefined {
  const plain = OPENCLIP_NAMES[name];
  if (plain !== undefined) return entries.get(plain);
  if (name === "text_projection.weight") {
    const stored = entries.get("text_projection");
    if (stored === undefined) return entries.get(name);
    return { ...stored, shape: [...stored.shape].reverse(), isTransposed: true };
  }
  const match = /^text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
  if (match === null) return undefined;
  const [, layer, path = "", kind] = match;
  const block = `transformer.resblocks.${layer}`;
  const part = FUSED.indexOf(path.replace("self_attn.", ""));
  if (part >= 0) return third(entries.get(`${block}.attn.in_proj_${kind}`), part);
  return entries.get(`${block}.${OPENCLIP_LAYERS[path]}.${kind}`);
}

function openClipLayout(entries: Entries): Layout | undefined {
  if (!entries.has("transformer.resblocks.0.ln_1.weight")) return undefined;
  if (!entries.has("token_embedding.weight")) return undefined;
  const layers = countRow(entries, (i) => `transformer.resblocks.${i}.ln_1.weight`, {
    max: TEXT_LAYERS_MAX,
    what: "layers in a text encoder",
  });
  const find: Find = (name) => findOpenClip(entries, name);
  const projection = find("text_projection.weight")?.shape[0] ?? 0;
  return { find, layers, projection, isOpenClip: true };
}

function readText(layout: Layout, place: Place): Component<TextEncoderConfig> {
  const { find, layers, projection, isOpenClip } = layout;
  const size = (table: string, axis: number): number =>
    axisOf({ get: find }, `text_model.embeddings.${table}.weight`, axis);
  const width = size("token_embedding", 1);
  const heads = Math.max(1, Math.floor(width / HEAD_CHANNELS));
  if (width % heads !== 0) {
    throw unsupported(`a text encoder ${width} wide, which ${heads} heads do not divide`);
  }
  if (layers === 0) throw unsupported("a text encoder without layers");
  const usual = place.prefix === "" && !isOpenClip ? "clip-l" : place.kind;
  const kind = KIND_OF_WIDTH.get(width) ?? usual;
  const config: TextEncoderConfig = {
    kind,
    width,
    layers,
    heads,
    vocabulary: size("token_embedding", 0),
    positions: size("position_embedding", 0),
    activation: kind === "clip-l" ? "quick_gelu" : "gelu",
    projection,
  };
  return { config, weights: takeWeights("CLIP text encoder", textLayers(config), find) };
}

/** All text encoders of a file, at most one of each kind, in the order of their outputs. */
export function detectText(
  file: Entries,
  family: Family | undefined,
): Component<TextEncoderConfig>[] {
  const found = new Map<TextEncoderKind, Component<TextEncoderConfig>>();
  for (const place of places(family)) {
    const entries = below(file, place.prefix);
    const layout = transformersLayout(entries) ?? openClipLayout(entries);
    if (layout === undefined) continue;
    const component = readText(layout, place);
    if (!found.has(component.config.kind)) found.set(component.config.kind, component);
  }
  return ORDER.flatMap((kind) => found.get(kind) ?? []);
}
