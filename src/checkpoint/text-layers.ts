/** Every layer of a CLIP text encoder, by transformers' CLIPTextModel names. */
import { type Layer, linear, norm, under } from "./layer.ts";
import type { TextEncoderConfig } from "./types.ts";

const same = (name: string): [string, string] => [name, name];

const table = (name: string, rows: number, width: number): Layer => ({
  name,
  diffusers: name,
  weight: [rows, width],
  hasBias: false,
});

function encoderLayer(width: number): Layer[] {
  const attention = ["q_proj", "k_proj", "v_proj", "out_proj"];
  return [
    norm(same("layer_norm1"), width),
    ...attention.map((name) => linear(same(`self_attn.${name}`), width, width)),
    norm(same("layer_norm2"), width),
    linear(same("mlp.fc1"), 4 * width, width),
    linear(same("mlp.fc2"), width, 4 * width),
  ];
}

/** All layers with their shapes. */
export function textLayers(config: TextEncoderConfig): Layer[] {
  const { width, layers, vocabulary, positions, projection } = config;
  const embeddings = "text_model.embeddings";
  const encoder = Array.from({ length: layers }, (_, i) =>
    under(same(`text_model.encoder.layers.${i}`), encoderLayer(width)),
  );
  const all = [
    table(`${embeddings}.token_embedding`, vocabulary, width),
    table(`${embeddings}.position_embedding`, positions, width),
    ...encoder.flat(),
    norm(same("text_model.final_layer_norm"), width),
  ];
  if (projection === 0) return all;
  return [...all, linear(same("text_projection"), projection, width, false)];
}
