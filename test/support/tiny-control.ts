/** A UNet of four narrow levels and control nets that fit it, with random weights. */
import {
  type ControlConfig,
  type ControlNetConfig,
  controlNetLayers,
  type EncoderConfig,
  type Layer,
  layerWeights,
  type T2IAdapterConfig,
  t2iAdapterLayers,
  type UNetConfig,
  unetLayers,
} from "../../src/checkpoint/index.ts";
import {
  type BuiltGraph,
  buildControlHintGraph,
  buildControlNetGraph,
  buildT2IAdapterGraph,
  pixelUnshuffle,
  timestepEmbedding,
} from "../../src/graph/index.ts";
import { type FloatTensor, floatTensor, fromFloat, type Tensor } from "../../src/tensor/index.ts";
import { openGraph, runGraph, weightFile } from "./graph-session.ts";
import { seededWeight } from "./seeded.ts";
import { normalGenerator, randomWeights, TINY_TEXT_WIDTH } from "./tiny-checkpoint.ts";

const ENCODER: EncoderConfig = {
  ...{ inChannels: 4, modelChannels: 32, channelMult: [1, 1, 2, 2], resBlocks: [2, 2, 2, 2] },
  ...{ transformerDepth: [0, 1, 0, 0, 0, 0, 0, 0], transformerDepthMiddle: 1 },
  ...{
    contextDim: TINY_TEXT_WIDTH,
    admChannels: 0,
    heads: { count: 8 },
    isLinearProjection: false,
  },
};

export const CONTROLLED_UNET: UNetConfig = {
  ...ENCODER,
  outChannels: 4,
  transformerDepthOutput: [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
};

export const CONTROL_NET: ControlNetConfig = {
  ...{ kind: "controlnet", encoder: ENCODER, hintChannels: 3, unionTypes: 0 },
};
export const UNION_NET: ControlNetConfig = { ...CONTROL_NET, unionTypes: 4 };
export const ADAPTER: T2IAdapterConfig = {
  ...{
    kind: "t2i-adapter",
    isLight: false,
    unshuffle: 8,
    hintChannels: 1,
    widths: [32, 32, 64, 64],
  },
  ...{ resBlocks: 2, kernel: 1, hasConvDown: false },
};

const layersOf = (config: ControlConfig): Layer[] =>
  config.kind === "controlnet" ? controlNetLayers(config) : t2iAdapterLayers(config);

/** Of the random numbers; "reference": those of test/reference/seeded.py, by name. */
export type Seed = number | "reference";

function tensorsOf(
  layers: readonly Layer[],
  seed: Seed,
  nameOf: (layer: string) => string,
): Map<string, Tensor> {
  const weights =
    seed === "reference"
      ? Array.from(layerWeights(layers), ([name, shape]) => {
          return [name, { shape, data: seededWeight(name, shape) }] as const;
        })
      : [...randomWeights(layers, normalGenerator(seed))];
  return new Map(weights.map(([name, weight]) => [nameOf(name), fromFloat(weight)]));
}

export function controlledUNetTensors(seed: Seed = 1): Map<string, Tensor> {
  const prefix = "model.diffusion_model.";
  return tensorsOf(unetLayers(CONTROLLED_UNET), seed, (name) => prefix + name);
}

/** As files have them: LDM's names, below `prefix`; or diffusers'. */
export function controlTensors(
  config: ControlConfig,
  options: Readonly<{ seed?: Seed; prefix?: string; isDiffusers?: boolean }> = {},
): Map<string, Tensor> {
  const { seed = 2, prefix = "", isDiffusers = false } = options;
  const layers = layersOf(config);
  const theirs = new Map(layers.map((layer) => [layer.name, layer.diffusers]));
  return tensorsOf(layers, seed, (name) => {
    const dot = name.lastIndexOf(".");
    const layer = name.slice(0, dot);
    const stored = isDiffusers ? (theirs.get(layer) ?? layer) : layer;
    if (stored === "task_embedding") return stored;
    return (
      prefix + stored + name.slice(dot).replace(/^\./, stored.endsWith(".in_proj") ? "_" : ".")
    );
  });
}

export type ControlStep = Readonly<{
  x: FloatTensor;
  timesteps: readonly number[];
  context: FloatTensor;
  /** [rows, ...] */
  hint: FloatTensor;
  type?: number;
}>;

/** Residuals of strength 1, computed here by the graphs that other tests compare with ComfyUI's nets. */
export async function residualsHere(
  config: ControlConfig,
  seed: number,
  step: ControlStep,
): Promise<Map<string, FloatTensor>> {
  const file = await weightFile(tensorsOf(layersOf(config), seed, (name) => name));
  const choices = { attention: "fused", compute: "float32", rankMin: 0 } as const;
  const options = { choices, externalFile: "weights.safetensors" };
  const run = async (graph: BuiltGraph, feeds: ReadonlyMap<string, FloatTensor>) =>
    runGraph(await openGraph(graph, file.bytes), feeds);
  if (config.kind === "t2i-adapter") {
    const hint = pixelUnshuffle(step.hint, config.unshuffle);
    return run(buildT2IAdapterGraph(config, file.weights, options), new Map([["hint", hint]]));
  }
  const rows = step.timesteps.length;
  const { unionTypes, encoder } = config;
  const oneHot = Float32Array.from({ length: rows * unionTypes }, (_, i) =>
    i % unionTypes === step.type ? 1 : 0,
  );
  const feeds = new Map([
    ["x", step.x],
    ["context", step.context],
    ["hint", step.hint],
    ["strength", floatTensor([rows, 1, 1, 1], new Float32Array(rows).fill(1))],
    ["control_type", floatTensor([rows, unionTypes], oneHot)],
    [
      "control_type_embedding",
      floatTensor([rows, 256 * unionTypes], timestepEmbedding(oneHot, 256)),
    ],
    [
      "timestep_embedding",
      floatTensor(
        [rows, encoder.modelChannels],
        timestepEmbedding(Float32Array.from(step.timesteps), encoder.modelChannels),
      ),
    ],
  ]);
  const made = await run(buildControlHintGraph(config, file.weights, options), feeds);
  return run(buildControlNetGraph(config, file.weights, options), new Map([...feeds, ...made]));
}
