/**
 * TAESD, a tiny autoencoder for the same latents (https://github.com/madebyollin/taesd, MIT). It was
 * trained on latents as the UNet sees them and on images in 0..1; the factors at its ends give it
 * the KL autoencoder's conventions (raw latents, images in -1..1), as ComfyUI's comfy/taesd/taesd.py
 * does with `vae_scale`.
 */
import { TAESD_DECODER, TAESD_ENCODER, type TaesdStep } from "../checkpoint/index.ts";
import type { GraphBuilder, Value } from "./graph-builder.ts";
import { conv2d, resizeNearest } from "./layers.ts";

/** Raw latent [batch, 4, height, width] to an image [batch, 3, 8 height, 8 width] in -1..1. */
export function buildTaesdDecoder(b: GraphBuilder, latent: Value, latentScale: number): Value {
  const scaled = b.node("Mul", [latent, b.floats([latentScale])]);
  const unit = buildSteps(b, scaled, { half: "decoder", steps: TAESD_DECODER });
  return b.node("Mul", [b.node("Sub", [unit, b.floats([0.5])]), b.floats([2])]);
}

/** Image in -1..1 to a raw latent. */
export function buildTaesdEncoder(b: GraphBuilder, image: Value, latentScale: number): Value {
  const half = b.floats([0.5]);
  const unit = b.node("Add", [b.node("Mul", [image, half]), half]);
  const scaled = buildSteps(b, unit, { half: "encoder", steps: TAESD_ENCODER });
  return b.node("Div", [scaled, b.floats([latentScale])]);
}

function buildSteps(
  b: GraphBuilder,
  input: Value,
  { half, steps }: { half: "encoder" | "decoder"; steps: readonly TaesdStep[] },
): Value {
  return steps.reduce(
    (x, step, index) => buildStep(b, x, { step, name: `${half}.${index}` }),
    input,
  );
}

function buildStep(
  b: GraphBuilder,
  x: Value,
  { step, name }: { step: TaesdStep; name: string },
): Value {
  switch (step.type) {
    case "clamp": {
      const three = b.floats([3]);
      return b.node("Mul", [b.node("Tanh", [b.node("Div", [x, three])]), three]);
    }
    case "relu":
      return b.node("Relu", [x]);
    case "conv":
      return conv2d(b, x, { name, stride: step.stride });
    case "upsample": {
      const sizes = b.node("Mul", [b.node("Shape", [x]), b.integers([1, 1, 2, 2])]);
      return resizeNearest(b, x, sizes);
    }
    case "block": {
      let h = x;
      for (const index of [0, 2])
        h = b.node("Relu", [conv2d(b, h, { name: `${name}.conv.${index}` })]);
      h = conv2d(b, h, { name: `${name}.conv.4` });
      return b.node("Relu", [b.node("Add", [h, x])]);
    }
  }
}
