import { LunaError } from "../../kernel/index.ts";
import { defineNode, output } from "../node-definition.ts";
import type { Model } from "../values.ts";

const CATEGORY = "model_patches/unet";
const scale = (initial: number) =>
  ({ type: "FLOAT", default: initial, min: 0, max: 10, step: 0.01, isAdvanced: true }) as const;

type Scales = Readonly<{ b1: number; b2: number; s1: number; s2: number }>;

function withFreeU(model: Model, version: 1 | 2, scales: Scales): Model {
  if (model.unet.features.freeu !== undefined) {
    throw new LunaError(
      "REQUEST_INVALID",
      "This model has a FreeU already, and a second one on top of it is not served. Keep one of the two nodes.",
    );
  }
  return { ...model, unet: model.unet.withFeatures({ freeu: { version, ...scales } }) };
}

const freeU = defineNode({
  name: "FreeU",
  displayName: "FreeU",
  category: CATEGORY,
  description:
    "Weighs what the upper half of the net gets from below against what it gets from the side.",
  inputs: {
    model: { type: "MODEL" },
    ...{ b1: scale(1.1), b2: scale(1.2), s1: scale(0.9), s2: scale(0.2) },
  },
  outputs: [output("MODEL")],
  run: ({ model, ...scales }) => ({ outputs: [withFreeU(model, 1, scales)] }),
});

const freeUV2 = defineNode({
  name: "FreeU_V2",
  displayName: "FreeU_V2",
  category: CATEGORY,
  description: "As FreeU, weighed by how much each place of the picture has.",
  inputs: {
    model: { type: "MODEL" },
    ...{ b1: scale(1.3), b2: scale(1.4), s1: scale(0.9), s2: scale(0.2) },
  },
  outputs: [output("MODEL")],
  run: ({ model, ...scales }) => ({ outputs: [withFreeU(model, 2, scales)] }),
});

const perturbedAttentionGuidance = defineNode({
  name: "PerturbedAttentionGuidance",
  displayName: "PerturbedAttentionGuidance",
  category: CATEGORY,
  description: "Guides away from what the net says without the self-attention of its middle block.",
  inputs: {
    model: { type: "MODEL" },
    scale: { type: "FLOAT", default: 3, min: 0, max: 100, step: 0.01, round: 0.01 },
  },
  outputs: [output("MODEL")],
  // Two nodes in a row would each take their own pass of the same net: their scales add up.
  run: ({ model, scale: own }) => ({
    outputs: [{ ...model, pagScale: (model.pagScale ?? 0) + own }],
  }),
});

export const MODEL_PATCH_NODES = [freeU, freeUV2, perturbedAttentionGuidance];
