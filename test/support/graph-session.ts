/** Runs graphs straight in ONNX Runtime on the CPU, for tests of the graph itself. */
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import type { WeightTable } from "../../src/checkpoint/index.ts";
import { type AdapterTarget, adapterInputs, type BuiltGraph } from "../../src/graph/index.ts";
import {
  type FloatTensor,
  floatTensor,
  readSafetensorsHeader,
  serializeSafetensors,
  type Tensor,
} from "../../src/tensor/index.ts";

export type Feeds = ReadonlyMap<string, FloatTensor>;

/** A safetensors file in memory and the places of its tensors. */
export type WeightFile = Readonly<{ bytes: Uint8Array; weights: WeightTable }>;

export async function weightFile(tensors: ReadonlyMap<string, Tensor>): Promise<WeightFile> {
  const bytes = serializeSafetensors(tensors);
  const header = await readSafetensorsHeader(
    async (offset, length) => bytes.subarray(offset, offset + length),
    bytes.byteLength,
  );
  return { bytes, weights: header.tensors };
}

/** One session as the engine makes it, the weights given from memory. */
export async function openGraph(graph: BuiltGraph, bytes: Uint8Array): Promise<InferenceSession> {
  return await InferenceSession.create(graph.model, {
    graphOptimizationLevel: "extended",
    executionProviders: ["cpu"],
    externalData: [{ path: graph.externalFile, data: bytes }],
  });
}

/** Adapter inputs of one rank, filled by `value`; rank 0 is no adapter. */
export function adapterFeeds(
  targets: readonly AdapterTarget[],
  options: { batch: number; rank: number; value?: (name: string, shape: number[]) => FloatTensor },
): Map<string, FloatTensor> {
  const { batch, rank, value = (_, shape) => floatTensor(shape) } = options;
  const feeds = new Map<string, FloatTensor>();
  for (const { name, kind, inputs, outputs, kernel } of targets) {
    const { down, up, scale } = adapterInputs(name);
    const isConv = kind === "conv";
    feeds.set(down, value(down, isConv ? [rank, inputs, ...kernel] : [rank, inputs]));
    feeds.set(up, value(up, [rank, outputs]));
    feeds.set(scale, value(scale, isConv ? [batch, rank, 1, 1] : [batch, 1, rank]));
  }
  return feeds;
}

/** Runs the session; ControlNet inputs that are not given are a zero. */
export async function runGraph(
  session: InferenceSession,
  feeds: Feeds,
): Promise<Map<string, FloatTensor>> {
  const tensors: Record<string, OrtTensor> = {};
  for (const name of session.inputNames) {
    const feed = feeds.get(name) ?? (name.startsWith("control.") && floatTensor([1, 1, 1, 1]));
    if (!feed) throw new Error(`input ${name} is not fed`);
    const isInteger = session.inputMetadata.some(
      (input) => input.name === name && input.isTensor && input.type === "int64",
    );
    tensors[name] = isInteger
      ? new OrtTensor("int64", BigInt64Array.from(feed.data, BigInt), feed.shape)
      : new OrtTensor("float32", feed.data, feed.shape);
  }
  const outputs = new Map<string, FloatTensor>();
  for (const [name, tensor] of Object.entries(await session.run(tensors))) {
    const data = tensor.data;
    if (!(data instanceof Float32Array)) throw new Error(`output ${name} is ${tensor.type}`);
    outputs.set(name, floatTensor(tensor.dims, data));
  }
  return outputs;
}

/** |actual - expected| / |expected|, both as vectors. */
export function relativeError(actual: FloatTensor, expected: FloatTensor): number {
  if (actual.shape.join() !== expected.shape.join()) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (const [index, value] of expected.data.entries()) {
    difference += ((actual.data[index] ?? 0) - value) ** 2;
    norm += value ** 2;
  }
  return Math.sqrt(difference / norm);
}
