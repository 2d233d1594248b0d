/** Inputs for engines over tiny checkpoints. */
import type { LoraUse, RunItem } from "../../src/engine/index.ts";
import { floatTensor, fromFloat, type Tensor, toFloat } from "../../src/tensor/index.ts";
import { normalGenerator, TINY_TEXT_WIDTH } from "./tiny-checkpoint.ts";

export function randomFloats(shape: readonly number[], seed: number): Tensor {
  const next = normalGenerator(seed);
  const tensor = floatTensor(shape);
  for (let i = 0; i < tensor.data.length; i++) tensor.data[i] = next();
  return fromFloat(tensor);
}

export function integers(shape: readonly number[], values: readonly number[]): Tensor {
  return {
    dtype: "I64",
    shape,
    bytes: new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer),
  };
}

export type UNetOptions = Readonly<{
  seed?: number;
  rows?: number;
  side?: number;
  tokens?: number;
  loras?: readonly LoraUse[];
  control?: ReadonlyMap<string, Tensor>;
}>;

export function unetItem(options: UNetOptions = {}): RunItem {
  const { seed = 1, rows = 1, side = 8, tokens = 77, loras = [], control = new Map() } = options;
  const timesteps = Float32Array.from({ length: rows }, (_, row) => 900 / seed - row * 0.5);
  return {
    loras,
    tensors: new Map([
      ["x", randomFloats([rows, 4, side, side], seed)],
      ["timesteps", fromFloat({ shape: [rows], data: timesteps })],
      ["context", randomFloats([rows, tokens, TINY_TEXT_WIDTH], seed + 100)],
      ...control,
    ]),
  };
}

export function textItem(words: readonly number[], loras: readonly LoraUse[] = []): RunItem {
  const row = [49406, ...words, ...new Array<number>(76 - words.length).fill(49407)];
  return {
    loras,
    layer: -1,
    isLayerNormed: true,
    tensors: new Map([["tokens", integers([1, 77], row)]]),
  };
}

export function floatsOf(tensor: Tensor | undefined): Float32Array {
  if (tensor === undefined) throw new Error("The engine gave no such output.");
  return toFloat(tensor).data;
}
