/** Adapter targets as the graphs have them, from the layer lists alone, for tests of src/lora. */
import { type TextEncoderKind, type UNetConfig, unetLayers } from "../../src/checkpoint/index.ts";
import type { AdapterTarget } from "../../src/graph/index.ts";
import type { LoraModel, LowRank } from "../../src/lora/index.ts";
import {
  type DType,
  fromFloat,
  parseSafetensors,
  type Safetensors,
  serializeSafetensors,
  type Tensor,
} from "../../src/tensor/index.ts";
import { seededValues } from "./seeded.ts";

export function linearTarget(name: string, outputs: number, inputs: number): AdapterTarget {
  return { name, kind: "linear", inputs, outputs, kernel: [1, 1] };
}

/** Target of a weight: [outputs, inputs], or with a kernel. */
export function weightTarget(name: string, shape: readonly number[]): AdapterTarget {
  const [outputs = 0, inputs = 0, height, width] = shape;
  if (height === undefined || width === undefined) return linearTarget(name, outputs, inputs);
  return { name, kind: "conv", inputs, outputs, kernel: [height, width] };
}

export function unetTargets(config: UNetConfig): AdapterTarget[] {
  return unetLayers(config)
    .filter(({ weight }) => weight.length > 1)
    .map(({ name, weight }) => weightTarget(name, weight));
}

export function textTargets(width: number, layers: number): AdapterTarget[] {
  const attention = ["q_proj", "k_proj", "v_proj", "out_proj"];
  return Array.from({ length: layers }, (_, i) => `text_model.encoder.layers.${i}`).flatMap(
    (layer) => [
      ...attention.map((name) => linearTarget(`${layer}.self_attn.${name}`, width, width)),
      linearTarget(`${layer}.mlp.fc1`, 4 * width, width),
      linearTarget(`${layer}.mlp.fc2`, width, 4 * width),
    ],
  );
}

export function loraModel(
  config: UNetConfig | undefined,
  text: Readonly<Record<string, readonly [width: number, layers: number]>> = {},
): LoraModel {
  const encoders = Object.entries(text).map(
    ([kind, [width, layers]]) => [kind as TextEncoderKind, textTargets(width, layers)] as const,
  );
  const unet = config && { unet: { config, targets: unetTargets(config) } };
  return { ...unet, text: new Map(encoders) };
}

/** A file in memory: key to shape, or to a tensor; values are seeded by their key. */
export function loraFile(
  tensors: Readonly<Record<string, readonly number[] | Tensor>>,
  dtype: Extract<DType, "F32" | "F16"> = "F32",
): Safetensors {
  const stored = Object.entries(tensors).map(([key, value]) => {
    if ("dtype" in value) return [key, value] as const;
    const count = value.reduce((product, axis) => product * axis, 1);
    return [key, fromFloat({ shape: value, data: seededValues(key, count) }, dtype)] as const;
  });
  return parseSafetensors(serializeSafetensors(new Map(stored)));
}

export function scalar(value: number): Tensor {
  return fromFloat({ shape: [], data: Float32Array.of(value) });
}

/** up^T down, as [outputs, inputs * kernel]. */
export function denseDelta({ rank, up, down }: LowRank): Float64Array {
  const outputs = up.length / rank;
  const inputs = down.length / rank;
  const result = new Float64Array(outputs * inputs);
  for (let r = 0; r < rank; r++) {
    for (let o = 0; o < outputs; o++) {
      for (let i = 0; i < inputs; i++) {
        result[o * inputs + i] =
          (result[o * inputs + i] ?? 0) + (up[r * outputs + o] ?? 0) * (down[r * inputs + i] ?? 0);
      }
    }
  }
  return result;
}
