/**
 * ControlNets and T2I-Adapters of prompts: which of them acts on which rows of a pass, and when.
 * The nets themselves run where the UNet runs; here they are names with a hint picture.
 */
import type { FloatTensor } from "../tensor/index.ts";
import type { Box } from "./areas.ts";
import { round } from "./float-math.ts";
import type { ModelSampling } from "./model-sampling.ts";
import type { Size } from "./resize.ts";

/** A control net as a prompt names it; the same object in two prompts is one control for both. */
export type Control = Readonly<{
  /** Handle of the net, as models have them. */
  model: string;
  /** The hint [n, channels, h, w] for a latent of this size, in cells. */
  hint: (latent: Size) => FloatTensor;
  strength: number;
  /** Which of its kinds of hint a Union net gets. */
  type?: number;
  /** Part of the sampling in which it acts, 0..1. */
  startPercent: number;
  endPercent: number;
}>;

/** A control net in one forward pass. */
export type ControlInput = Readonly<{
  model: string;
  /** [n, channels, h, w]; row r of the pass has the hint r % n. The same object at every step. */
  hint: FloatTensor;
  strength: number;
  type?: number;
  /** Rows of the pass that it acts on; all where not given. */
  rows?: readonly number[];
}>;

/** A control net ready for each step of a run. */
export type PromptControl = Readonly<{
  input: ControlInput;
  /** Acts for sigmaEnd <= sigma <= sigmaStart. */
  sigmaStart: number;
  sigmaEnd: number;
}>;

/** Controls by size of their prompt's box: what two prompts share stays one object. */
export type ControlCache = Map<Control, Map<string, PromptControl>>;

type PrepareOptions = Readonly<{
  model: ModelSampling;
  /** Latents of a prompt. */
  batch: number;
  box: Box;
  known: ControlCache;
}>;

export function prepareControls(
  controls: readonly Control[],
  { model, batch, box, known }: PrepareOptions,
): PromptControl[] {
  return controls.map((control) => {
    const key = `${box.height}x${box.width}`;
    const bySize = known.get(control) ?? new Map<string, PromptControl>();
    known.set(control, bySize);
    const { hint, startPercent, endPercent, ...input } = control;
    const prepared = bySize.get(key) ?? {
      input: { ...input, hint: spreadRows(hint(box), batch) },
      sigmaStart: round(model.percentToSigma(startPercent)),
      sigmaEnd: round(model.percentToSigma(endPercent)),
    };
    bySize.set(key, prepared);
    return prepared;
  });
}

/** One row for all latents as it is; others cut or repeated until each latent has one. */
function spreadRows(hint: FloatTensor, batch: number): FloatTensor {
  const [rows = 1, ...inner] = hint.shape;
  if (rows === 1 || rows === batch) return hint;
  const size = hint.data.length / rows;
  const data = new Float32Array(batch * size);
  for (let row = 0; row < batch; row++) {
    const from = (row % rows) * size;
    data.set(hint.data.subarray(from, from + size), row * size);
  }
  return { shape: [batch, ...inner], data };
}

type Controlled = Readonly<{
  controls?: readonly Control[];
  isControlShared?: boolean;
  box?: Box;
}>;

/**
 * The negative prompts with the shared controls of the positive ones, unless one of them has
 * controls of its own. Prompts with an area take no part.
 */
export function controlNegative<Part extends Controlled>(
  positive: readonly Part[],
  negative: readonly Part[],
): Part[] {
  const shared = positive.filter(
    ({ box, controls, isControlShared }) => !box && controls && isControlShared === true,
  );
  const whole = negative.flatMap((prompt, index) => (prompt.box ? [] : [index]));
  const result = [...negative];
  if (whole.some((index) => negative[index]?.controls)) return result;
  for (const [nth, { controls }] of shared.entries()) {
    const index = whole[nth % whole.length];
    const prompt = index === undefined ? undefined : negative[index];
    if (index !== undefined && prompt && controls) result[index] = { ...prompt, controls };
  }
  return result;
}

export type RowsOfControl = Readonly<{ control: PromptControl; input: ControlInput }>;

/** The controls of a pass whose prompts have `batch` rows each, with the rows they act on. */
export function joinControls(
  prompts: readonly (readonly PromptControl[])[],
  batch: number,
): RowsOfControl[] {
  const rows = new Map<PromptControl, number[]>();
  for (const [index, controls] of prompts.entries()) {
    for (const control of controls) {
      const own = rows.get(control) ?? [];
      for (let row = 0; row < batch; row++) own.push(index * batch + row);
      rows.set(control, own);
    }
  }
  return Array.from(rows, ([control, own]) => {
    const isAll = own.length === prompts.length * batch;
    return { control, input: isAll ? control.input : { ...control.input, rows: own } };
  });
}
