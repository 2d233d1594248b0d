/**
 * The tensors of a request, checked against the checkpoint they are for: names, axes, types and
 * limits. What passes here is a job for the engine; the batch key says what may share its run.
 */
import type { Checkpoint } from "../checkpoint/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { Request } from "../protocol/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { isWireDType, toF32, type WireDType } from "./float-tensors.ts";
import {
  BATCH_CELLS_MAX,
  BATCH_ROWS_MAX,
  CONTEXT_TOKENS_MAX,
  LATENT_CELLS_MAX,
  TEXT_ROWS_MAX,
  UNET_ROWS_MAX,
  VAE_CELLS_MAX,
  VAE_COST,
  VAE_ROWS_MAX,
} from "./limits.ts";

export type Tensors = ReadonlyMap<string, Tensor>;

export type RunInputs = Readonly<{
  tensors: Tensors;
  /** Completes the batch key: all that must agree within one run, beside model and component. */
  shapeKey: string;
  rows: number;
  rowsMax: number;
  /** Work of a row, in latent cells. */
  rowCost: number;
  /** Rows do not depend on each other, and every tensor has them on its first axis. */
  isSplittable: boolean;
  /** Length of the context. */
  tokens?: number;
  /** Type of the answer. */
  dtype: WireDType;
}>;

const CONTROL = /^control\.(input|middle|output)\.\d{1,2}$/;
const TOKENS = 77;

function invalid(problem: string): LunaError {
  return new LunaError("REQUEST_INVALID", problem);
}

function tooLarge(what: string, value: number, limit: number): LunaError {
  return new LunaError("LIMIT_EXCEEDED", `${what}: ${value}, limit ${limit}.`);
}

/** The axes of a tensor; -1 in `wanted` stands for any. */
function axes(tensors: Tensors, name: string, wanted: readonly number[]): readonly number[] {
  const tensor = tensors.get(name);
  const expected = `[${wanted.map((axis) => (axis < 0 ? "any" : axis)).join(", ")}]`;
  if (!tensor) throw invalid(`Tensor "${name}" ${expected} is missing.`);
  const fits =
    tensor.shape.length === wanted.length &&
    tensor.shape.every(
      (axis, index) => axis > 0 && (axis === wanted[index] || wanted[index] === -1),
    );
  if (fits) return tensor.shape;
  throw invalid(`Tensor "${name}" is [${tensor.shape.join(", ")}], ${expected} is needed.`);
}

function checkNames(tensors: Tensors, known: readonly string[]): void {
  for (const name of tensors.keys()) {
    if (!known.includes(name)) throw invalid(`Tensor "${name}" is not one of ${known.join(", ")}.`);
  }
}

function wireDType(tensors: Tensors, name: string): WireDType {
  const dtype = tensors.get(name)?.dtype ?? "F32";
  if (isWireDType(dtype)) return dtype;
  throw invalid(`Tensor "${name}" has the type ${dtype}: send F32, F16 or BF16.`);
}

function allF32(tensors: Tensors): Map<string, Tensor> {
  return new Map([...tensors].map(([name, tensor]) => [name, toF32(name, tensor)]));
}

/** x, timesteps, context, y and control of one UNet step. */
export function unetInputs(
  tensors: Tensors,
  { unet }: Checkpoint,
  request: Pick<Request<"model_forward">, "controls"> = {},
): RunInputs {
  if (!unet) throw invalid("This checkpoint has no UNet.");
  const { inChannels, contextDim, admChannels } = unet.config;
  const controls = [...tensors.keys()].filter((name) => CONTROL.test(name)).sort();
  // What hints must be like depends on their control nets (controls.ts).
  const hints = (request.controls ?? []).map((_, index) => `hint.${index}`);
  checkNames(tensors, ["x", "timesteps", "context", "y", ...controls, ...hints]);
  const [rows = 0, , height = 0, width = 0] = axes(tensors, "x", [-1, inChannels, -1, -1]);
  const cells = height * width;
  if (rows > UNET_ROWS_MAX) throw tooLarge("Rows of x", rows, UNET_ROWS_MAX);
  if (cells > LATENT_CELLS_MAX) throw tooLarge("Latent cells of x", cells, LATENT_CELLS_MAX);
  axes(tensors, "timesteps", [rows]);
  const [, tokens = 0] = axes(tensors, "context", [rows, -1, contextDim]);
  if (tokens > CONTEXT_TOKENS_MAX) throw tooLarge("Context tokens", tokens, CONTEXT_TOKENS_MAX);
  if (admChannels > 0) axes(tensors, "y", [rows, admChannels]);
  else if (tensors.has("y")) throw invalid('This UNet takes no "y".');
  for (const name of controls) checkControl(tensors, name, rows);
  return {
    tensors: allF32(tensors),
    // Not the control: rows without it get zeros, which change nothing.
    shapeKey: `${height}x${width}`,
    ...{ rows, tokens, rowCost: cells, isSplittable: true },
    rowsMax: Math.max(1, Math.min(BATCH_ROWS_MAX, Math.floor(BATCH_CELLS_MAX / cells))),
    dtype: wireDType(tensors, "x"),
  };
}

function checkControl(tensors: Tensors, name: string, rows: number): void {
  const [batch] = axes(tensors, name, [-1, -1, -1, -1]);
  if (batch === 1 || batch === rows) return;
  throw invalid(`Tensor "${name}" has ${batch} rows, 1 or ${rows} are needed.`);
}

function readIntegers(name: string, tensor: Tensor | undefined): number[] {
  if (tensor?.dtype !== "I64") throw invalid(`Tensor "${name}" must have the type I64.`);
  const { buffer, byteOffset, byteLength } = tensor.bytes;
  const view = new DataView(buffer, byteOffset, byteLength);
  return Array.from({ length: byteLength / 8 }, (_, at) => Number(view.getBigInt64(at * 8, true)));
}

/** tokens [n, 77], embeddings [m, width] at embedding_positions [m, 2] of one text request. */
export function textInputs(
  tensors: Tensors,
  { textEncoders }: Checkpoint,
  request: Request<"clip_encode">,
): RunInputs {
  const { encoder, layer, isLayerNormed } = request;
  const config = textEncoders.find((each) => each.config.kind === encoder)?.config;
  if (!config) throw invalid(`This checkpoint has no ${encoder}.`);
  if (-layer > config.layers)
    throw invalid(`${encoder} has ${config.layers} layers, not ${-layer}.`);
  checkNames(tensors, ["tokens", "embeddings", "embedding_positions"]);
  const [rows = 0] = axes(tensors, "tokens", [-1, TOKENS]);
  if (rows > TEXT_ROWS_MAX) throw tooLarge("Rows of tokens", rows, TEXT_ROWS_MAX);
  for (const id of readIntegers("tokens", tensors.get("tokens"))) {
    if (id < 0 || id >= config.vocabulary) throw invalid(`Token ${id} is not in the vocabulary.`);
  }
  const checked = new Map(tensors);
  const embeddings = tensors.get("embeddings");
  if (embeddings) {
    checkEmbeddings(tensors, rows, config.width);
    checked.set("embeddings", toF32("embeddings", embeddings));
  } else if (tensors.has("embedding_positions")) throw invalid('"embeddings" are missing.');
  const shapeKey = `${layer} ${isLayerNormed} ${embeddings !== undefined}`;
  return {
    ...{ tensors: checked, shapeKey, rows, rowsMax: TEXT_ROWS_MAX, dtype: "F32" },
    // Embeddings name the row they stand in.
    ...{ rowCost: TOKENS, isSplittable: false },
  };
}

function checkEmbeddings(tensors: Tensors, rows: number, width: number): void {
  const [count = 0] = axes(tensors, "embeddings", [-1, width]);
  axes(tensors, "embedding_positions", [count, 2]);
  const places = readIntegers("embedding_positions", tensors.get("embedding_positions"));
  for (const [at, place] of places.entries()) {
    const limit = at % 2 === 0 ? rows : TOKENS;
    if (place < 0 || place >= limit) throw invalid(`An embedding stands at ${place} of ${limit}.`);
  }
}

/** latent [b, channels, h, w] of a decode, or image [b, 3, h, w] of an encode. */
export function vaeInputs(
  tensors: Tensors,
  { vae }: Checkpoint,
  slot: "latent" | "image",
): RunInputs {
  if (!vae) throw invalid("This checkpoint has no VAE.");
  const { latentChannels, imageChannels, downscale } = vae.config;
  checkNames(tensors, [slot]);
  const channels = slot === "latent" ? latentChannels : imageChannels;
  const [rows = 0, , height = 0, width = 0] = axes(tensors, slot, [-1, channels, -1, -1]);
  const scale = slot === "latent" ? 1 : downscale;
  if (height % scale || width % scale) {
    throw invalid(`The image is ${width}x${height}: both sides must be multiples of ${downscale}.`);
  }
  const cells = rows * (height / scale) * (width / scale);
  if (rows > VAE_ROWS_MAX) throw tooLarge(`Rows of ${slot}`, rows, VAE_ROWS_MAX);
  if (cells > VAE_CELLS_MAX) throw tooLarge(`Latent cells of ${slot}`, cells, VAE_CELLS_MAX);
  return {
    tensors: allF32(tensors),
    shapeKey: `${height}x${width}`,
    ...{ rows, rowsMax: 1, rowCost: (VAE_COST * cells) / rows, isSplittable: true },
    dtype: wireDType(tensors, slot),
  };
}
