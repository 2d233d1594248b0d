/**
 * What a workflow's CONDITIONING holds, and its preparation for one run: areas in latent cells,
 * masks at latent size, percent ranges as sigmas, and an opposite for every area.
 */
import type { FloatTensor } from "../tensor/index.ts";
import {
  type Area,
  type Box,
  boxOfMask,
  isInside,
  isSameBox,
  multiplierOf,
  resolveArea,
} from "./areas.ts";
import {
  type Control,
  type ControlCache,
  controlNegative,
  type PromptControl,
  prepareControls,
} from "./control.ts";
import { round } from "./float-math.ts";
import { type ConcatSource, concatOf } from "./inpaint.ts";
import type { ModelSampling } from "./model-sampling.ts";
import { repeatToBatch, resizeBilinear } from "./resize.ts";

/** One prompt of a list; the list's outputs are summed by weight. */
export type Conditioning = Readonly<{
  /** [1 or b, tokens, contextDim] */
  context: FloatTensor;
  /** [1 or b, admChannels]; SDXL only. */
  y?: FloatTensor;
  area?: Area;
  /** Weight beside the other prompts, 1 by default. */
  strength?: number;
  /** [h, w] or [n, h, w] of any size: weight by place. */
  mask?: FloatTensor;
  maskStrength?: number;
  /** Restricts the forward pass to the mask's bounding box. */
  isAreaMaskBounds?: boolean;
  /** Part of the sampling in which the prompt applies, 0..1. */
  startPercent?: number;
  endPercent?: number;
  /** Inpaint and pix2pix models: the latent [n, 4, h, w] (unscaled) and mask to concatenate. */
  concatLatent?: FloatTensor;
  concatMask?: FloatTensor;
  /** Control nets, in the order in which their residuals add up. */
  controls?: readonly Control[];
  /** They act on the negative prompts too, where those have none of their own. */
  isControlShared?: boolean;
}>;

/** A prompt ready for each step of one run. */
export type Prompt = Readonly<{
  /** [b, tokens, contextDim] */
  context: FloatTensor;
  /** [b, admChannels] */
  y?: FloatTensor;
  /** [b, k, H, W], channels after the latent's own. */
  concat?: FloatTensor;
  /** Part of the latent that is denoised; all of it by default. */
  box: Box;
  isWhole: boolean;
  /** [n, box] weights, row i for batch row i % n; undefined is 1 everywhere. */
  multiplier: Float32Array | undefined;
  /** Applies for sigmaEnd <= sigma <= sigmaStart. */
  sigmaStart: number;
  sigmaEnd: number;
  controls: readonly PromptControl[];
}>;

export type PrepareOptions = Readonly<{
  model: ModelSampling;
  /** [b, c, H, W] of the latent. */
  shape: readonly number[];
  concat?: ConcatSource;
}>;

/** A conditioning whose area and mask fit the latent. */
export type Located = Conditioning & Readonly<{ box?: Box }>;

function locate(conditioning: Conditioning, shape: readonly number[]): Located {
  const size = { height: shape[2] ?? 1, width: shape[3] ?? 1 };
  const box = conditioning.area && resolveArea(conditioning.area, size);
  const area = box ? { box } : {};
  if (!conditioning.mask) return { ...conditioning, ...area };
  const rows = conditioning.mask;
  const flat = rows.shape.length === 2 ? { ...rows, shape: [1, ...rows.shape] } : rows;
  const mask = resizeBilinear(flat, size);
  const bounds = conditioning.isAreaMaskBounds ? { box: boxOfMask(mask) } : {};
  return { ...conditioning, ...area, ...bounds, mask };
}

/**
 * Gives a prompt with an area a partner in the other list with the same area, taken from the
 * smallest prompt there that contains it, so that guidance compares like with like.
 */
function addOpposite(others: Located[], prompt: Located): void {
  const { box } = prompt;
  if (!box) return;
  let smallest: Located | undefined;
  for (const other of others) {
    if (!other.box) {
      smallest ??= other;
    } else if (isInside(box, other.box)) {
      const isSmaller =
        !smallest?.box ||
        smallest.box.height * smallest.box.width > other.box.height * other.box.width;
      if (isSmaller) smallest = other;
    }
  }
  if (!smallest || (smallest.box && isSameBox(smallest.box, box))) return;
  const { y: _y, concatLatent: _latent, concatMask: _mask, ...placed } = prompt;
  const { context, y, concatLatent, concatMask } = smallest;
  others.push({
    ...placed,
    context,
    ...(y && { y }),
    ...(concatLatent && { concatLatent }),
    ...(concatMask && { concatMask }),
  });
}

function addOpposites(lists: readonly [Located[], Located[]]): void {
  for (const [index, list] of lists.entries()) {
    const others = lists[1 - index] as Located[];
    // The other list grows while it is read in its turn, as in the original.
    for (const prompt of list) addOpposite(others, prompt);
  }
}

function finish(
  located: Located,
  { model, shape, concat, controls }: PrepareOptions & Readonly<{ controls: ControlCache }>,
): Prompt {
  const [batch = 1] = shape;
  const size = { height: shape[2] ?? 1, width: shape[3] ?? 1 };
  const { startPercent, endPercent, y } = located;
  const { box, multiplier } = multiplierOf(located, size);
  return {
    context: repeatToBatch(located.context, batch),
    ...(y && { y: repeatToBatch(y, batch) }),
    ...(concat && { concat: concatOf(concat, located, shape) }),
    box,
    isWhole: isSameBox(box, { ...size, y: 0, x: 0 }),
    multiplier,
    sigmaStart:
      startPercent === undefined
        ? Number.POSITIVE_INFINITY
        : round(model.percentToSigma(startPercent)),
    sigmaEnd: endPercent === undefined ? 0 : round(model.percentToSigma(endPercent)),
    controls: prepareControls(located.controls ?? [], { model, batch, box, known: controls }),
  };
}

/** Both lists, ready for guidance. Throws REQUEST_INVALID for an area outside the latent. */
export function prepareConditioning(
  {
    positive,
    negative,
  }: Readonly<{
    positive: readonly Conditioning[];
    negative: readonly Conditioning[];
  }>,
  options: PrepareOptions,
): Readonly<{ positive: Prompt[]; negative: Prompt[] }> {
  const first = positive.map((entry) => locate(entry, options.shape));
  const second = negative.map((entry) => locate(entry, options.shape));
  addOpposites([first, second]);
  const finished = { ...options, controls: new Map() };
  return {
    positive: first.map((entry) => finish(entry, finished)),
    negative: controlNegative(first, second).map((entry) => finish(entry, finished)),
  };
}
