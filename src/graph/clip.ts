/**
 * CLIP's text transformer (transformers' CLIPTextModel) for CLIP-L, OpenCLIP-H and OpenCLIP-G.
 *
 * Inputs: tokens int64 [batch, time]; embedding_override [1 or batch, 1 or time, width] and
 * embedding_mask [1 or batch, 1 or time, 1] put vectors in place of tokens (textual inversion:
 * mask 1 takes the override, zeros change nothing); layer int64 [1], the hidden state to give
 * (0 = embeddings, N = after layer N); end_position int64 [batch], where the text ends; and three
 * for every adapter target (adapters.ts).
 * Outputs: hidden [batch, time, width], that state; hidden_normed, its final layer norm;
 * pooled [batch, width], the last state, normed, at end_position; projected [batch, projection]
 * where the encoder has a text_projection.
 */
import type { TextEncoderConfig, WeightTable } from "../checkpoint/index.ts";
import { GraphBuilder, type Value } from "./graph-builder.ts";
import { attention, gelu, layerNorm, linear, quickGelu } from "./layers.ts";
import { int } from "./onnx.ts";
import type { BuiltGraph, GraphOptions } from "./types.ts";

const EPSILON = 1e-5;
const FINAL_NORM = { name: "text_model.final_layer_norm", epsilon: EPSILON };

export type ClipGraphOptions = GraphOptions &
  Readonly<{
    /** LoRA inputs beside every linear layer; true by default. */
    hasAdapters?: boolean;
  }>;

/** Builds the graph. Throws CHECKPOINT_UNSUPPORTED when the weights do not fit the config. */
export function buildClipGraph(
  config: TextEncoderConfig,
  weights: WeightTable,
  options: ClipGraphOptions,
): BuiltGraph {
  const { choices, externalFile, hasAdapters = true, isFull = false } = options;
  const base = { name: config.kind, weights, choices, externalFile };
  const b = new GraphBuilder({ ...base, hasAdapters, isFull });
  const layer = b.input("layer", [1], "int64");
  let x = buildEmbedding(b, config);
  let hidden = x;
  for (let index = 0; index < config.layers; index++) {
    x = encoderLayer(b, x, { config, name: `text_model.encoder.layers.${index}` });
    // Choosing on the way keeps two states in memory and not one for each layer.
    const isChosen = b.node("Equal", [layer, b.integers([index + 1])]);
    hidden = b.node("Where", [isChosen, x, hidden]);
  }
  const shape = ["batch", "time", config.width];
  b.output("hidden", hidden, { shape });
  b.output("hidden_normed", layerNorm(b, hidden, FINAL_NORM), { shape });
  const pooled = buildPooled(b, layerNorm(b, x, FINAL_NORM));
  b.output("pooled", pooled, { shape: ["batch", config.width] });
  if (config.projection > 0) {
    const projected = linear(b, pooled, { name: "text_projection", hasTime: false });
    b.output("projected", projected, { shape: ["batch", config.projection] });
  }
  return b.build();
}

function buildEmbedding(b: GraphBuilder, config: TextEncoderConfig): Value {
  const { width } = config;
  const tokens = b.input("tokens", ["batch", "time"], "int64");
  const override = b.input("embedding_override", ["override_batch", "override_time", width]);
  const mask = b.input("embedding_mask", ["override_batch", "override_time", 1]);
  const words = b.rows("text_model.embeddings.token_embedding.weight", tokens);
  const kept = b.node("Mul", [words, b.node("Sub", [b.floats([1]), mask])]);
  const time = b.node("Shape", [tokens], { attributes: { start: int(1) } });
  const positions = b.node("Slice", [
    b.weight("text_model.embeddings.position_embedding.weight"),
    b.integers([0]),
    time,
  ]);
  return b.node("Add", [b.node("Add", [kept, override]), positions]);
}

function encoderLayer(
  b: GraphBuilder,
  x: Value,
  { config, name }: { config: TextEncoderConfig; name: string },
): Value {
  const { width, heads } = config;
  const normed = layerNorm(b, x, { name: `${name}.layer_norm1`, epsilon: EPSILON });
  const project = (part: string): Value => linear(b, normed, { name: `${name}.self_attn.${part}` });
  const seen = attention(b, {
    query: project("q_proj"),
    key: project("k_proj"),
    value: project("v_proj"),
    heads,
    width,
    isCausal: true,
  });
  const h = b.node("Add", [x, linear(b, seen, { name: `${name}.self_attn.out_proj` })]);
  const inner = linear(b, layerNorm(b, h, { name: `${name}.layer_norm2`, epsilon: EPSILON }), {
    name: `${name}.mlp.fc1`,
  });
  const active = config.activation === "gelu" ? gelu(b, inner) : quickGelu(b, inner);
  return b.node("Add", [h, linear(b, active, { name: `${name}.mlp.fc2` })]);
}

/** The state of each row at its end_position, [batch, width]. */
function buildPooled(b: GraphBuilder, normed: Value): Value {
  const position = b.input("end_position", ["batch"], "int64");
  const indices = b.node("Unsqueeze", [position, b.integers([1])]);
  return b.node("GatherND", [normed, indices], { attributes: { batch_dims: int(1) } });
}
