/**
 * The inputs of test/reference/sampling.py again, built from the JSON in its goldens: random
 * tensors by seed, masks by box, and the analytic function that stands for the UNet.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { toPlanes, upscale } from "../../src/nodes/upscale.ts";
import {
  type Conditioning,
  type Control,
  createContinuousSampling,
  createDiscreteSampling,
  type Forward,
  type ModelSampling,
  prepareNoise,
  type SampleOptions,
  type SamplerName,
  type SchedulerName,
  sample,
  TorchGenerator,
} from "../../src/sampling/index.ts";
import { type FloatTensor, parseSafetensors, toFloat } from "../../src/tensor/index.ts";

export const GOLDENS = join(import.meta.dirname, "..", "fixtures", "goldens", "sampling");
/** SD1's, which the goldens were made with. */
const LATENT_SCALE = 0.18215;

type MaskSpec = Readonly<{
  height: number;
  width: number;
  box: [number, number, number, number];
  value?: number;
  batch?: number;
}>;

type ConditioningSpec = Readonly<{
  seed: number;
  tokens: number;
  ySeed?: number;
  area?: [number, number, number, number];
  fraction?: [number, number, number, number];
  strength?: number;
  mask?: MaskSpec;
  maskStrength?: number;
  isAreaMaskBounds?: boolean;
  startPercent?: number;
  endPercent?: number;
  concatLatentSeed?: number;
  concatShape?: number[];
  concatMask?: MaskSpec;
}>;

type ModelSpec = Readonly<{
  prediction?: "eps" | "v" | "edm";
  settings?: Readonly<Record<string, number | boolean>>;
}>;

export type SamplingCase = ModelSpec &
  Readonly<{
    shape: number[];
    seed: number;
    steps: number;
    cfg: number;
    sampler: SamplerName;
    scheduler: SchedulerName;
    positive: ConditioningSpec[];
    negative: ConditioningSpec[];
    latentSeed?: number;
    denoise?: number;
    startStep?: number;
    lastStep?: number;
    forceFullDenoise?: boolean;
    disableNoise?: boolean;
    noiseMask?: MaskSpec;
    concat?: "inpaint" | "pix2pix";
    batchIndices?: number[];
    pag?: number[];
    controls?: ControlSpec[];
  }>;

type ControlSpec = Readonly<{
  node: "simple" | "advanced";
  image: { shape: [number, number, number, number]; seed: number };
  strength: number;
  start?: number;
  end?: number;
  only?: "positive" | "negative";
  type?: [number];
}>;

export type Golden<Case> = Readonly<{
  cases: Readonly<Record<string, Case>>;
  tensors: ReadonlyMap<string, FloatTensor>;
}>;

export function readGolden<Case>(name: string): Golden<Case> {
  const file = parseSafetensors(readFileSync(join(GOLDENS, `${name}.safetensors`)));
  const tensors = new Map([...file.tensors].map(([key, tensor]) => [key, toFloat(tensor)]));
  // Seeds above 2^53 are quoted first: JSON numbers would lose their low bits.
  const text = (file.metadata["cases"] ?? "{}").replace(/"seed":(\d{17,})/g, '"seed":"$1"');
  return { cases: JSON.parse(text), tensors };
}

export function createSampling({ prediction = "eps", settings = {} }: ModelSpec): ModelSampling {
  if (prediction !== "edm") {
    return createDiscreteSampling({
      prediction,
      isZeroTerminalSnr: settings["zsnr"] === true,
    });
  }
  return createContinuousSampling({
    prediction,
    sigmaData: Number(settings["sigma_data"]),
    sigmaMin: Number(settings["sigma_min"]),
    sigmaMax: Number(settings["sigma_max"]),
  });
}

function randn(seed: number, shape: number[]): FloatTensor {
  const count = shape.reduce((product, axis) => product * axis, 1);
  return { shape, data: new TorchGenerator(seed).randn(count) };
}

/** Ones (or `value`) in the half-open box [top, left, bottom, right]; row n is shifted n right. */
function createMask({ height, width, box, value = 1, batch = 1 }: MaskSpec): FloatTensor {
  const data = new Float32Array(batch * height * width);
  const [top, left, bottom, right] = box;
  for (let n = 0; n < batch; n++) {
    for (let y = top; y < bottom; y++) {
      const begin = (n * height + y) * width + n;
      data.fill(value, begin + left, begin + right);
    }
  }
  return { shape: [batch, height, width], data };
}

function createConditioning(spec: ConditioningSpec): Conditioning {
  const corners = spec.area ?? spec.fraction;
  const { seed, tokens, ySeed, concatLatentSeed, concatShape, mask, concatMask, ...rest } = spec;
  const { area: _area, fraction: _fraction, ...plain } = rest;
  return {
    ...plain,
    context: randn(seed, [1, tokens, 6]),
    ...(ySeed !== undefined && { y: randn(ySeed, [1, 5]) }),
    ...(corners && {
      area: {
        type: spec.area ? "cells" : "fraction",
        height: corners[0],
        width: corners[1],
        y: corners[2],
        x: corners[3],
      },
    }),
    ...(mask && { mask: createMask(mask) }),
    ...(concatMask && { concatMask: createMask(concatMask) }),
    ...(concatLatentSeed !== undefined &&
      concatShape && { concatLatent: randn(concatLatentSeed, concatShape) }),
  };
}

const meanOf = (values: Float32Array): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** The function AnalyticNet of test/reference/sampling.py, in double precision. */
export const analyticForward: Forward = async ({ x, timesteps, context, y }) => {
  const [rows = 1, channels = 4, height = 1, width = 1] = x.shape;
  const plane = height * width;
  const data = new Float32Array(rows * 4 * plane);
  const tokenCount = context.data.length / rows;
  for (let row = 0; row < rows; row++) {
    const words = context.data.subarray(row * tokenCount, (row + 1) * tokenCount);
    let drive = meanOf(words) + 0.002 * (timesteps[row] ?? 0);
    if (y) drive += meanOf(y.data.subarray(row * 5, (row + 1) * 5));
    const origin = row * channels * plane;
    for (let index = 0; index < 4 * plane; index++) {
      const value = x.data[origin + index] ?? 0;
      const column = index % width;
      const left = x.data[origin + index - column + ((column + width - 1) % width)] ?? 0;
      let out = 0.9 * value + 0.1 * Math.sin(3 * value + drive) + 0.05 * drive * left;
      let extra = 0;
      for (let c = 4; c < channels; c++) {
        extra += x.data[origin + c * plane + (index % plane)] ?? 0;
      }
      if (channels > 4) out += (0.05 * extra) / (channels - 4);
      data[row * 4 * plane + index] = out;
    }
  }
  return { shape: [rows, 4, height, width], data };
};

/** PatchedNet of test/reference/sampling_patches.py: analyticForward and its AnalyticControl. */
export const controlledForward: Forward = async (input) => {
  const out = await analyticForward(input);
  const { x, timesteps, context, controls = [] } = input;
  const [rows = 1, channels = 4, height = 1, width = 1] = x.shape;
  const tokenCount = context.data.length / rows;
  for (const { hint, strength, type = 0, rows: own } of controls) {
    for (const row of own ?? Array.from({ length: rows }, (_, index) => index)) {
      const words = context.data.subarray(row * tokenCount, (row + 1) * tokenCount);
      const drive = meanOf(words) + 0.001 * (timesteps[row] ?? 0) + type;
      const cells = cellMeans(hint, row % (hint.shape[0] ?? 1));
      for (let index = 0; index < 4 * height * width; index++) {
        const value = x.data[row * channels * height * width + index] ?? 0;
        const cell = cells[index % (height * width)] ?? 0;
        const at = row * 4 * height * width + index;
        out.data[at] = (out.data[at] ?? 0) + strength * cell * Math.cos(value + drive);
      }
    }
  }
  return out;
};

/** Means of 8x8 pixels and all channels of one picture [n, c, H, W]. */
function cellMeans({ shape, data }: FloatTensor, picture: number): Float64Array {
  const [, channels = 1, height = 1, width = 1] = shape;
  const sums = new Float64Array((height / 8) * (width / 8));
  const begin = picture * channels * height * width;
  for (let i = 0; i < channels * height * width; i++) {
    const y = Math.floor(i / width) % height;
    const cell = (y >> 3) * (width / 8) + ((i % width) >> 3);
    sums[cell] = (sums[cell] ?? 0) + (data[begin + i] ?? 0);
  }
  return sums.map((sum) => sum / (64 * channels));
}

function createControl({ image, strength, start = 0, end = 1, type }: ControlSpec): Control {
  const planes = toPlanes(randn(image.seed, image.shape));
  const options = { method: "nearest-exact", isCropped: true };
  return {
    ...{ model: "analytic", strength, startPercent: start, endPercent: end },
    hint: ({ height, width }) => upscale(planes, { height: height * 8, width: width * 8 }, options),
    ...(type && { type: type[0] }),
  };
}

/** As ControlNetApply and ControlNetApplyAdvanced put controls on two lists. */
function applyControls(
  positive: Conditioning[],
  negative: Conditioning[],
  specs: readonly ControlSpec[],
): [Conditioning[], Conditioning[]] {
  const lists: [Conditioning[], Conditioning[]] = [positive, negative];
  for (const spec of specs) {
    const control = createControl(spec);
    for (const [side, list] of lists.entries()) {
      const name = side === 0 ? "positive" : "negative";
      const isSimple = spec.node === "simple";
      if (isSimple ? side === 1 : spec.only !== undefined && spec.only !== name) continue;
      lists[side] = list.map((part) => ({
        ...part,
        controls: [...(part.controls ?? []), isSimple ? { ...control } : control],
        isControlShared: isSimple,
      }));
    }
  }
  return lists;
}

/** Runs a golden's case with our sampler. */
export function runCase(
  spec: SamplingCase,
  overrides: Partial<SampleOptions> = {},
): Promise<FloatTensor> {
  const { positive, negative, sampler, scheduler, noiseMask, batchIndices } = spec;
  const seed = BigInt(spec.seed);
  const latent = spec.latentSeed
    ? randn(spec.latentSeed, spec.shape)
    : { shape: spec.shape, data: new Float32Array(spec.shape.reduce((a, b) => a * b, 1)) };
  const { steps, cfg, denoise, startStep, lastStep, concat, pag = [], controls = [] } = spec;
  const [first, second] = applyControls(
    positive.map(createConditioning),
    negative.map(createConditioning),
    controls,
  );
  const perturbedForward: Forward = async (input) => {
    const { shape, data } = await controlledForward(input);
    return { shape, data: data.map((value) => value * 0.8) };
  };
  const scale = pag.reduce((sum, each) => sum + each, 0);
  return sample({
    forward: controlledForward,
    modelSampling: createSampling(spec),
    latent,
    noise: prepareNoise(spec.shape, seed, batchIndices),
    seed,
    steps,
    cfg,
    samplerName: sampler,
    schedulerName: scheduler,
    positive: first,
    negative: second,
    ...(pag.length > 0 && { perturbed: { forward: perturbedForward, scale } }),
    ...(denoise !== undefined && { denoise }),
    ...(startStep !== undefined && { startStep }),
    ...(lastStep !== undefined && { lastStep }),
    forceFullDenoise: spec.forceFullDenoise === true,
    disableNoise: spec.disableNoise === true,
    ...(noiseMask && { noiseMask: createMask(noiseMask) }),
    ...(concat && { concat }),
    latentScale: LATENT_SCALE,
    ...overrides,
  });
}

/** Relative L2 error of `actual` against `expected`; 0 when both are all zeros. */
export function relativeError(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let scale = 0;
  for (let index = 0; index < expected.length; index++) {
    const wanted = expected[index] ?? 0;
    difference += ((actual[index] ?? 0) - wanted) ** 2;
    scale += wanted ** 2;
  }
  if (difference === 0) return 0;
  const error = Math.sqrt(difference / scale);
  return Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
}
