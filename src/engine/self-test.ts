/**
 * A provider is checked before it is trusted. A small UNet with pseudo-random weights and a LoRA
 * contains the operators that nets are made of; what a provider makes of it is compared with the
 * CPU's result in the same process, and the CPU's with stored numbers. The time of a pass decides
 * whether `auto` takes a device.
 */
import {
  layerWeights,
  type UNetConfig,
  unetLayers,
  type WeightRef,
  type WeightTable,
} from "../checkpoint/index.ts";
import { type BuiltGraph, buildUNetGraph, timestepEmbedding } from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import { type LowRank, packAdapters } from "../lora/index.ts";
import { elementCount, type FloatTensor } from "../tensor/index.ts";
import type { Provider } from "./providers.ts";
import { type Feeds, type Runtime, runSession, runtimeError, toOrt } from "./runtime.ts";

const CONFIG: UNetConfig = {
  inChannels: 4,
  outChannels: 4,
  modelChannels: 32,
  channelMult: [1, 2],
  resBlocks: [1, 1],
  transformerDepth: [0, 1],
  transformerDepthMiddle: 1,
  transformerDepthOutput: [1, 1, 0, 0],
  contextDim: 32,
  admChannels: 0,
  heads: { count: 4 },
  isLinearProjection: true,
};
const ROWS = 2;
const SIDE = 16;
const TIME = 7;
const RANK = 2;
/** The first one also allocates and, on a device, compiles. */
const PASSES = 3;

/**
 * Every 331st output of the CPU provider (ONNX Runtime 1.30), whose graphs equal PyTorch's to 1e-5
 * (src/graph/unet.test.ts).
 */
const STORED_STEP = 331;
const STORED: readonly number[] = [
  0.1247021, 0.99686104, -0.80602705, -0.13852967, 0.08251375, 0.0734386, -0.8774597,
];

/** Uniform numbers in -1..1 from the multiplicative generator of Park and Miller (48271, 2^31 - 1). */
function uniform(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return (state / 2147483647) * 2 - 1;
  };
}

function randomTensor(shape: readonly number[], next: () => number, scale = 1): FloatTensor {
  const data = new Float32Array(elementCount(shape));
  for (let i = 0; i < data.length; i++) data[i] = next() * scale;
  return { shape, data };
}

/** All weights in one buffer: matrices scaled by fan-in, norms near 1. */
function buildWeights(next: () => number): { bytes: Uint8Array; weights: WeightTable } {
  const shapes = layerWeights(unetLayers(CONFIG));
  const total = [...shapes.values()].reduce((sum, shape) => sum + elementCount(shape), 0);
  const data = new Float32Array(total);
  const weights = new Map<string, WeightRef>();
  let offset = 0;
  for (const [name, shape] of shapes) {
    const count = elementCount(shape);
    const isVector = shape.length === 1;
    const scale = isVector ? 0.1 : Math.sqrt(3 / (count / (shape[0] ?? 1)));
    const mean = isVector && name.endsWith(".weight") ? 1 : 0;
    for (let i = 0; i < count; i++) data[offset + i] = mean + next() * scale;
    weights.set(name, { dtype: "F32", shape, begin: offset * 4, end: (offset + count) * 4 });
    offset += count;
  }
  return { bytes: new Uint8Array(data.buffer), weights };
}

function buildFeeds(
  runtime: Runtime,
  provider: Provider,
  { graph, next }: { graph: BuiltGraph; next: () => number },
): Feeds {
  const factors = new Map<string, LowRank>();
  for (const { name, inputs, outputs, kernel } of graph.adapterTargets) {
    const columns = inputs * kernel[0] * kernel[1];
    const down = randomTensor([RANK, columns], next, columns ** -0.5).data;
    factors.set(name, { rank: RANK, down, up: randomTensor([RANK, outputs], next).data });
  }
  const rows = [[{ id: "self-test", strength: 0.5, factors }], []];
  const tensors = new Map(packAdapters(graph.adapterTargets, rows, provider.choices));
  tensors.set("x", randomTensor([ROWS, CONFIG.inChannels, SIDE, SIDE], next));
  tensors.set("context", randomTensor([ROWS, TIME, CONFIG.contextDim], next));
  const timesteps = timestepEmbedding(Float32Array.of(999, 1.5), CONFIG.modelChannels);
  tensors.set("timestep_embedding", { shape: [ROWS, CONFIG.modelChannels], data: timesteps });
  const feeds: Feeds = {};
  for (const [name, tensor] of tensors) {
    feeds[name] = toOrt(runtime, tensor, provider.choices.compute);
  }
  return feeds;
}

export type SelfTestResult = Readonly<{
  output: Float32Array;
  /** Fastest of a few passes. */
  ms: number;
}>;

/** Runs the small net on a provider. Throws what ONNX Runtime said if that cannot be done. */
export async function computeSelfTest(
  runtime: Runtime,
  provider: Provider,
): Promise<SelfTestResult> {
  const next = uniform(1234567);
  const { bytes, weights } = buildWeights(next);
  const { choices } = provider;
  const graph = buildUNetGraph(CONFIG, weights, { choices, externalFile: "weights" });
  const session = await runtime.InferenceSession.create(graph.model, {
    ...provider.sessionOptions,
    externalData: [{ path: "weights", data: bytes }],
  }).catch((error: unknown) => {
    throw runtimeError(error, `Starting ${provider.name}`);
  });
  try {
    const feeds = buildFeeds(runtime, provider, { graph, next });
    for (const name of session.inputNames) {
      if (!name.startsWith("control.")) continue;
      const zero = { shape: [1, 1, 1, 1], data: new Float32Array(1) };
      feeds[name] = toOrt(runtime, zero, choices.compute);
    }
    const times: number[] = [];
    let output = new Float32Array(0);
    for (let pass = 0; pass < PASSES; pass++) {
      const { outputs, ms } = await runSession(session, feeds);
      times.push(ms);
      output = Float32Array.from(outputs.get("out")?.data ?? []);
    }
    return { output, ms: Math.min(...times) };
  } finally {
    await session.release();
  }
}

/** |actual - expected| / |expected|; infinite for other lengths or anything not a number. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += ((actual[i] ?? 0) - (expected[i] ?? 0)) ** 2;
    norm += (expected[i] ?? 0) ** 2;
  }
  const error = Math.sqrt(difference / norm);
  return Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
}

/**
 * Throws DEVICE_UNAVAILABLE when a result is off by more than the provider's bound: against
 * another provider's whole result, or the stored numbers.
 */
export function checkResult(
  provider: Provider,
  actual: Float32Array,
  expected: Float32Array | undefined,
): void {
  const error =
    expected === undefined
      ? relativeError(
          actual.filter((_, index) => index % STORED_STEP === 0),
          STORED,
        )
      : relativeError(actual, expected);
  if (error <= provider.errorMax) return;
  throw new LunaError(
    "DEVICE_UNAVAILABLE",
    `${provider.name} computes wrong results on this machine: the self-test is off by ${error.toPrecision(2)}, at most ${provider.errorMax} is allowed. Update the graphics driver, or use --device cpu.`,
  );
}
