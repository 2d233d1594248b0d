/** ONNX Runtime as the rooms of the child see it: imported by child.ts alone, passed on from there. */
import type { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import { LunaError } from "../kernel/index.ts";
import { type FloatTensor, fromFloat, type Tensor, toFloat } from "../tensor/index.ts";
import { RUNTIME_MESSAGE_LENGTH_MAX } from "./limits.ts";

export type Runtime = typeof import("onnxruntime-node");
export type { InferenceSession, OrtTensor };

export type Compute = "float32" | "float16";

/** A float tensor as the graph takes it; float32 is not copied. */
export function toOrt(runtime: Runtime, tensor: FloatTensor, compute: Compute): OrtTensor {
  if (compute === "float32") return new runtime.Tensor("float32", tensor.data, tensor.shape);
  const { bytes } = fromFloat(tensor, "F16");
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  return new runtime.Tensor("float16", halves, tensor.shape);
}

export function integersToOrt(
  runtime: Runtime,
  values: readonly bigint[] | BigInt64Array,
  shape: readonly number[],
): OrtTensor {
  return new runtime.Tensor("int64", BigInt64Array.from(values), shape);
}

/** An output as float32; float32 is not copied. */
export function fromOrt(tensor: OrtTensor): FloatTensor {
  const { data, dims, type } = tensor;
  if (data instanceof Float32Array) return { shape: dims, data };
  const view = data as Uint16Array; // float16 is the only other type graphs compute in.
  if (type !== "float16") throw new LunaError("INTERNAL", `The graph gave ${type}.`);
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  return toFloat({ dtype: "F16", shape: dims, bytes });
}

export function toTensor(tensor: FloatTensor): Tensor {
  return fromFloat(tensor, "F32");
}

export type Feeds = Record<string, OrtTensor>;

/** One forward pass; errors come as LunaErrors. */
export async function runSession(
  session: InferenceSession,
  feeds: Feeds,
): Promise<{ outputs: ReadonlyMap<string, FloatTensor>; ms: number }> {
  const { results, ms } = await runRaw(session, feeds);
  return { outputs: new Map(Array.from(results, ([name, tensor]) => [name, fromOrt(tensor)])), ms };
}

/** As `runSession`; the outputs as another session takes them. */
export async function runRaw(
  session: InferenceSession,
  feeds: Feeds,
): Promise<{ results: ReadonlyMap<string, OrtTensor>; ms: number }> {
  const begin = performance.now();
  try {
    const results = Object.entries(await session.run(feeds));
    return { results: new Map(results), ms: performance.now() - begin };
  } catch (error) {
    throw runtimeError(error, "The forward pass");
  }
}

const MEMORY = /bad.?alloc|failed to allocate|out of memory|OUT_OF_MEMORY|BFCArena/i;
const SHAPES = /invalid (dimensions|rank) for input|unexpected input data type/i;

/** Says what ONNX Runtime said, shortened, under the code that fits. */
export function runtimeError(error: unknown, what: string): LunaError {
  if (error instanceof LunaError) return error;
  const known = LunaError.from(error);
  if (known.code === "DISK_FULL") return known;
  const text = shortened(error);
  if (MEMORY.test(text)) {
    return new LunaError("MEMORY_EXCEEDED", `${what} ran out of memory: ${text}`, { cause: error });
  }
  if (SHAPES.test(text)) {
    return new LunaError("TENSOR_MALFORMED", `The inputs do not fit the model: ${text}`, {
      cause: error,
    });
  }
  return new LunaError("ENGINE_FAILED", `${what} failed: ${text}`, { cause: error });
}

/** One line without source paths, which only say where ONNX Runtime was built. */
export function shortened(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text
    .replaceAll(/\S*\/(?:onnxruntime|include)\/\S+:\d+\s*/g, "")
    .replaceAll(/\s+/g, " ")
    .trim()
    .slice(0, RUNTIME_MESSAGE_LENGTH_MAX);
}
