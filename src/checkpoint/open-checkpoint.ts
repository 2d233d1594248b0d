import {
  type DType,
  elementCount,
  type SafetensorsHeader,
  type Tensor,
  type TensorEntry,
  toFloat,
} from "../tensor/index.ts";
import { takeControl } from "./detect-control.ts";
import { detectText } from "./detect-text.ts";
import { detectUNet, familyOf } from "./detect-unet.ts";
import { detectVae } from "./detect-vae.ts";
import { VALUE_BYTES_MAX } from "./limits.ts";
import type { Checkpoint, Component, Family, Prediction, UNetConfig, WeightRef } from "./types.ts";
import { refuseForeign, unsupported } from "./unsupported.ts";

/** Reads one tensor of the file. */
export type ReadTensor = (entry: TensorEntry) => Promise<Tensor>;

/** Latents the UNet sees = raw latents * this, from the families' published configurations. */
const LATENT_SCALE = { sd: 0.18215, sdxl: 0.13025 };

/**
 * Tells what a file holds from its header: family, nets, their configs and where each weight lies.
 * `readTensor` reads the one or two small tensors whose values tell more: SD2's prediction, and a
 * TAESD's scale; without it SD2 counts as eps. Throws CHECKPOINT_UNSUPPORTED, naming what was found.
 */
export async function openCheckpoint(
  header: SafetensorsHeader,
  readTensor?: ReadTensor,
): Promise<Checkpoint> {
  const { control, rest: tensors } = takeControl(header.tensors);
  refuseForeign(tensors.keys());
  const unet = detectUNet(tensors);
  const family = unet === undefined ? undefined : familyOf(unet.config);
  const textEncoders = detectText(tensors, family);
  const vae = detectVae(tensors);
  if (!control && unet === undefined && textEncoders.length === 0 && vae === undefined) {
    const [first] = tensors.keys();
    const some = first === undefined ? "no tensors" : `no net known here (a key is "${first}")`;
    throw unsupported(some);
  }
  const isSdxl = family === "sdxl" || family === "sdxl-refiner";
  const values = async (entry: WeightRef | undefined): Promise<Float32Array | undefined> => {
    if (entry === undefined || readTensor === undefined) return undefined;
    if (entry.end - entry.begin > VALUE_BYTES_MAX) return undefined;
    return toFloat(await readTensor(entry)).data;
  };
  const taesdScale = vae?.config.kind === "taesd" ? tensors.get("vae_scale") : undefined;
  return {
    ...(family === undefined ? {} : { family }),
    prediction: unet === undefined ? "eps" : await predictionOf(header, family, { unet, values }),
    isZeroTerminalSnr: family === "sdxl" && tensors.has("v_pred") && tensors.has("ztsnr"),
    ...(unet === undefined ? {} : { unet }),
    textEncoders,
    ...(vae === undefined ? {} : { vae }),
    ...(control === undefined ? {} : { control }),
    latentScale: (await values(taesdScale))?.[0] ?? (isSdxl ? LATENT_SCALE.sdxl : LATENT_SCALE.sd),
    dtype: commonType(header.tensors.values()),
  };
}

/** SD2 models trained on v have larger biases here; the threshold is ComfyUI's. */
const V_BIAS_DEVIATION = 0.09;

type Reader = Readonly<{
  unet: Component<UNetConfig>;
  values: (entry: WeightRef | undefined) => Promise<Float32Array | undefined>;
}>;

async function predictionOf(
  { tensors }: SafetensorsHeader,
  family: Family | undefined,
  { unet, values }: Reader,
): Promise<Prediction> {
  if (family === "sdxl") {
    if (tensors.has("edm_mean") && tensors.has("edm_std")) return "edm";
    if (tensors.has("edm_vpred.sigma_max")) return "edm";
    return tensors.has("v_pred") ? "v" : "eps";
  }
  // SD2's inpainting models predict eps, whatever their biases.
  if (family !== "sd2" || unet.config.inChannels !== 4) return "eps";
  const last = unet.config.transformerDepthOutput.length - 1;
  const name = `output_blocks.${last}.1.transformer_blocks.0.norm1.bias`;
  const bias = await values(unet.weights.get(name));
  return bias !== undefined && deviation(bias) > V_BIAS_DEVIATION ? "v" : "eps";
}

/** Standard deviation of a whole population. */
function deviation(values: Float32Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}

/** The element type that most numbers have. */
function commonType(entries: Iterable<TensorEntry>): DType {
  const counts = new Map<DType, number>();
  for (const { dtype, shape } of entries) {
    counts.set(dtype, (counts.get(dtype) ?? 0) + elementCount(shape));
  }
  return [...counts].reduce((most, one) => (one[1] > most[1] ? one : most), ["F32", 0])[0];
}
