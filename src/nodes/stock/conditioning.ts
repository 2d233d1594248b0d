import { type FloatTensor, floatTensor } from "../../tensor/index.ts";
import { RESOLUTION_MAX } from "../limits.ts";
import { defineNode, output } from "../node-definition.ts";
import type { Conditioning, ConditioningPart } from "../values.ts";

const CONDITIONING = { type: "CONDITIONING" } as const;

/** Every part with other facts beside it. */
function withFacts(conditioning: Conditioning, facts: Partial<ConditioningPart>): Conditioning {
  return conditioning.map((part) => ({ ...part, ...facts }));
}

const combine = defineNode({
  name: "ConditioningCombine",
  displayName: "Conditioning (Combine)",
  category: "conditioning",
  inputs: { conditioning_1: CONDITIONING, conditioning_2: CONDITIONING },
  outputs: [output("CONDITIONING")],
  run: ({ conditioning_1, conditioning_2 }) => ({
    outputs: [[...conditioning_1, ...conditioning_2]],
  }),
});

const concat = defineNode({
  name: "ConditioningConcat",
  displayName: "Conditioning (Concat)",
  category: "conditioning",
  inputs: { conditioning_to: CONDITIONING, conditioning_from: CONDITIONING },
  outputs: [output("CONDITIONING")],
  run({ conditioning_to, conditioning_from }, { log }) {
    const from = onlyFirst(conditioning_from, "ConditioningConcat", log);
    return {
      outputs: [
        conditioning_to.map((part) => ({
          ...part,
          context: joinTokens(part.context, from.context),
        })),
      ],
    };
  },
});

function onlyFirst(
  conditioning: Conditioning,
  node: string,
  log: (line: string) => void,
): ConditioningPart {
  if (conditioning.length > 1) {
    log(`[${node}] Warning: conditioning_from has several parts, only the first one is used`);
  }
  return conditioning[0] ?? { context: floatTensor([1, 0, 0]) };
}

/** [1, a, w] and [1, b, w] to [1, a + b, w]. */
function joinTokens(first: FloatTensor, second: FloatTensor): FloatTensor {
  const [, a = 0, width = 0] = first.shape;
  const [, b = 0] = second.shape;
  const data = new Float32Array((a + b) * width);
  data.set(first.data);
  data.set(second.data, first.data.length);
  return floatTensor([1, a + b, width], data);
}

const average = defineNode({
  name: "ConditioningAverage",
  displayName: "ConditioningAverage",
  category: "conditioning",
  inputs: {
    conditioning_to: CONDITIONING,
    conditioning_from: CONDITIONING,
    conditioning_to_strength: { type: "FLOAT", default: 1, min: 0, max: 1, step: 0.01 },
  },
  outputs: [output("CONDITIONING")],
  run({ conditioning_to, conditioning_from, conditioning_to_strength: share }, { log }) {
    const from = onlyFirst(conditioning_from, "ConditioningAverage", log);
    const mixed = conditioning_to.map((part) => {
      const pooledTo = part.pooled ?? from.pooled;
      const pooled = from.pooled && pooledTo ? mix(pooledTo, from.pooled, share) : pooledTo;
      return {
        ...part,
        context: mix(part.context, from.context, share),
        ...(pooled && { pooled }),
      };
    });
    return { outputs: [mixed] };
  },
});

/** to * share + from * (1 - share); a shorter `from` is continued with zeros. */
function mix(to: FloatTensor, from: FloatTensor, share: number): FloatTensor {
  const [kept, other] = [Math.fround(share), Math.fround(1 - share)];
  const data = to.data.map(
    (value, i) => Math.fround(value * kept) + Math.fround((from.data[i] ?? 0) * other),
  );
  return floatTensor(to.shape, data);
}

const STRENGTH = { type: "FLOAT", default: 1, min: 0, max: 10, step: 0.01 } as const;
const pixels = (initial: number, min: number) =>
  ({ type: "INT", default: initial, min, max: RESOLUTION_MAX, step: 8 }) as const;
/** Pixels of one latent cell, as ComfyUI fixes it here. */
const CELL = 8;

const setArea = defineNode({
  name: "ConditioningSetArea",
  displayName: "Conditioning (Set Area)",
  category: "conditioning",
  inputs: {
    conditioning: CONDITIONING,
    width: pixels(64, 64),
    height: pixels(64, 64),
    x: pixels(0, 0),
    y: pixels(0, 0),
    strength: STRENGTH,
  },
  outputs: [output("CONDITIONING")],
  run({ conditioning, width, height, x, y, strength }) {
    const cells = (length: number) => Math.floor(length / CELL);
    const area = {
      type: "cells",
      height: cells(height),
      width: cells(width),
      y: cells(y),
      x: cells(x),
    } as const;
    return { outputs: [withFacts(conditioning, { area, strength, isAreaMaskBounds: false })] };
  },
});

const fraction = (initial: number) =>
  ({ type: "FLOAT", default: initial, min: 0, max: 1, step: 0.01 }) as const;

const setAreaPercentage = defineNode({
  name: "ConditioningSetAreaPercentage",
  displayName: "Conditioning (Set Area with Percentage)",
  category: "conditioning",
  inputs: {
    conditioning: CONDITIONING,
    width: fraction(1),
    height: fraction(1),
    x: fraction(0),
    y: fraction(0),
    strength: STRENGTH,
  },
  outputs: [output("CONDITIONING")],
  run({ conditioning, width, height, x, y, strength }) {
    const area = { type: "fraction", height, width, y, x } as const;
    return { outputs: [withFacts(conditioning, { area, strength, isAreaMaskBounds: false })] };
  },
});

const setAreaStrength = defineNode({
  name: "ConditioningSetAreaStrength",
  displayName: "ConditioningSetAreaStrength",
  category: "conditioning",
  inputs: { conditioning: CONDITIONING, strength: STRENGTH },
  outputs: [output("CONDITIONING")],
  run: ({ conditioning, strength }) => ({ outputs: [withFacts(conditioning, { strength })] }),
});

const setMask = defineNode({
  name: "ConditioningSetMask",
  displayName: "Conditioning (Set Mask)",
  category: "conditioning",
  inputs: {
    conditioning: CONDITIONING,
    mask: { type: "MASK" },
    strength: STRENGTH,
    set_cond_area: { type: "COMBO", choices: ["default", "mask bounds"] },
  },
  outputs: [output("CONDITIONING")],
  run({ conditioning, mask, strength, set_cond_area }) {
    const isAreaMaskBounds = set_cond_area !== "default";
    return {
      outputs: [withFacts(conditioning, { mask, maskStrength: strength, isAreaMaskBounds })],
    };
  },
});

const range = (initial: number) =>
  ({ type: "FLOAT", default: initial, min: 0, max: 1, step: 0.001 }) as const;

const setTimestepRange = defineNode({
  name: "ConditioningSetTimestepRange",
  displayName: "ConditioningSetTimestepRange",
  category: "advanced/conditioning",
  inputs: { conditioning: CONDITIONING, start: range(0), end: range(1) },
  outputs: [output("CONDITIONING")],
  run: ({ conditioning, start, end }) => ({
    outputs: [withFacts(conditioning, { startPercent: start, endPercent: end })],
  }),
});

const zeroOut = defineNode({
  name: "ConditioningZeroOut",
  displayName: "ConditioningZeroOut",
  category: "advanced/conditioning",
  inputs: { conditioning: CONDITIONING },
  outputs: [output("CONDITIONING")],
  run: ({ conditioning }) => ({
    outputs: [
      conditioning.map((part) => ({
        ...part,
        context: floatTensor(part.context.shape),
        ...(part.pooled && { pooled: floatTensor(part.pooled.shape) }),
      })),
    ],
  }),
});

export const CONDITIONING_NODES = [
  combine,
  concat,
  average,
  setArea,
  setAreaPercentage,
  setAreaStrength,
  setMask,
  setTimestepRange,
  zeroOut,
];
