import {
  type Checkpoint,
  type ComponentName,
  componentWeights,
  type TextEncoderConfig,
  type TextEncoderKind,
  type WeightTable,
} from "../checkpoint/index.ts";
import {
  type AdapterTarget,
  type BuiltGraph,
  buildClipGraph,
  buildControlHintGraph,
  buildControlNetGraph,
  buildT2IAdapterGraph,
  buildUNetGraph,
  buildVaeDecoderGraph,
  buildVaeEncoderGraph,
  type GraphOptions,
} from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { LoraModel } from "../lora/index.ts";

/** The weights of a net. Throws MODEL_UNKNOWN when the checkpoint lacks it. */
export function weightsOf(checkpoint: Checkpoint, component: ComponentName): WeightTable {
  const weights = componentWeights(checkpoint, component);
  if (weights !== undefined) return weights;
  throw new LunaError("MODEL_UNKNOWN", `The checkpoint has no ${component}.`);
}

/** The config of the text encoder a component names. */
export function textConfigOf(checkpoint: Checkpoint, component: ComponentName): TextEncoderConfig {
  const encoder = checkpoint.textEncoders.find(({ config }) => config.kind === component);
  if (encoder !== undefined) return encoder.config;
  throw new LunaError("MODEL_UNKNOWN", `The checkpoint has no ${component}.`);
}

/** The graph of one net, over `weights` (whose offsets may be those of a part of the file). */
export function buildGraph(
  checkpoint: Checkpoint,
  component: ComponentName,
  options: GraphOptions & Readonly<{ weights: WeightTable }>,
): BuiltGraph {
  const { weights, ...rest } = options;
  const { unet, vae, control, latentScale } = checkpoint;
  switch (component) {
    case "unet":
      if (unet !== undefined) return buildUNetGraph(unet.config, weights, rest);
      break;
    case "vae-decoder":
      if (vae !== undefined)
        return buildVaeDecoderGraph(vae.config, weights, { ...rest, latentScale });
      break;
    case "vae-encoder":
      if (vae !== undefined)
        return buildVaeEncoderGraph(vae.config, weights, { ...rest, latentScale });
      break;
    case "control-hint":
      if (control === undefined) break;
      return control.config.kind === "controlnet"
        ? buildControlHintGraph(control.config, weights, rest)
        : buildT2IAdapterGraph(control.config, weights, rest);
    case "control-net":
      if (control?.config.kind !== "controlnet") break;
      return buildControlNetGraph(control.config, weights, rest);
    default:
      return buildClipGraph(textConfigOf(checkpoint, component), weights, rest);
  }
  throw new LunaError("MODEL_UNKNOWN", `The checkpoint has no ${component}.`);
}

/** Where LoRAs may act in any net of the checkpoint; `known` is what a graph has told already. */
export function buildLoraModel(
  checkpoint: Checkpoint,
  options: GraphOptions,
  known?: Readonly<{ component: ComponentName; targets: readonly AdapterTarget[] }>,
): LoraModel {
  const targets = (component: ComponentName): readonly AdapterTarget[] => {
    if (component === known?.component) return known.targets;
    const weights = weightsOf(checkpoint, component);
    const graph = buildGraph(checkpoint, component, { ...options, weights });
    return [...graph.adapterTargets, ...graph.normTargets];
  };
  const kinds = checkpoint.textEncoders.map(({ config }) => config.kind);
  const text = kinds.map((kind): [TextEncoderKind, readonly AdapterTarget[]] => [
    kind,
    targets(kind),
  ]);
  const config = checkpoint.unet?.config;
  return {
    ...(config === undefined ? {} : { unet: { config, targets: targets("unet") } }),
    text: new Map(text),
  };
}
