/**
 * Every layer of TAESD (https://github.com/madebyollin/taesd, MIT): the numbers are positions in its
 * two nn.Sequential. Between them stand activations and enlargements, which have no weights.
 */
import type { Layer } from "./layer.ts";
import type { VaeConfig } from "./types.ts";

export type TaesdStep = Readonly<
  | { type: "clamp" }
  | { type: "relu" }
  | { type: "upsample" }
  | {
      type: "conv";
      stride: 1 | 2;
      hasBias: boolean;
      inputs: "image" | "latent" | "width";
      outputs: "image" | "latent" | "width";
    }
  | { type: "block" }
>;

const conv = (
  inputs: "image" | "latent" | "width",
  outputs: "image" | "latent" | "width",
): TaesdStep => ({
  type: "conv",
  stride: 1,
  hasBias: true,
  inputs,
  outputs,
});
const block: TaesdStep = { type: "block" };
const down: TaesdStep[] = [
  { type: "conv", stride: 2, hasBias: false, inputs: "width", outputs: "width" },
  block,
  block,
  block,
];
const up: TaesdStep[] = [
  block,
  block,
  block,
  { type: "upsample" },
  { type: "conv", stride: 1, hasBias: false, inputs: "width", outputs: "width" },
];

/** The two nets, step by step; a step's index is its position in the file's names. */
export const TAESD_ENCODER: readonly TaesdStep[] = [
  conv("image", "width"),
  block,
  ...down,
  ...down,
  ...down,
  conv("width", "latent"),
];
export const TAESD_DECODER: readonly TaesdStep[] = [
  { type: "clamp" },
  conv("latent", "width"),
  { type: "relu" },
  ...up,
  ...up,
  ...up,
  block,
  conv("width", "image"),
];

function stepLayers(config: VaeConfig, name: string, step: TaesdStep): Layer[] {
  const width = config.widths[0] ?? 0;
  const size = { image: config.imageChannels, latent: config.latentChannels, width };
  const layer = (at: string, outputs: number, inputs: number, hasBias = true): Layer => ({
    name: at,
    diffusers: at,
    weight: [outputs, inputs, 3, 3],
    hasBias,
  });
  if (step.type === "conv")
    return [layer(name, size[step.outputs], size[step.inputs], step.hasBias)];
  if (step.type !== "block") return [];
  return [0, 2, 4].map((i) => layer(`${name}.conv.${i}`, width, width));
}

/** All layers with their shapes, as "encoder.N" and "decoder.N". */
export function taesdLayers(config: VaeConfig): Layer[] {
  const of = (part: string, steps: readonly TaesdStep[]) =>
    steps.flatMap((step, i) => stepLayers(config, `${part}.${i}`, step));
  return [
    ...(config.hasEncoder ? of("encoder", TAESD_ENCODER) : []),
    ...(config.hasDecoder ? of("decoder", TAESD_DECODER) : []),
  ];
}
