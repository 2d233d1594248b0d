/** The control nets that a step names: loaded for it, and checked against its UNet and hints. */
import { type Checkpoint, type ControlConfig, misfit } from "../checkpoint/index.ts";
import type { ControlUse } from "../engine/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { ControlSpec } from "../protocol/index.ts";
import type { ServedModels } from "./ports.ts";
import type { Tensors } from "./run-inputs.ts";

/** Pixels of a hint for each latent cell, along each side. */
export const CELL_PIXELS = 8;

/** Nets of a request's controls, in its order, that stay loaded until they are released. */
export type LeasedControls = Readonly<{
  nets: readonly LeasedControl[];
  release: () => void;
}>;
type LeasedControl = Readonly<{
  spec: ControlSpec;
  /** The file's id. */
  model: string;
  path: string;
  config: ControlConfig;
}>;

/** Loads what is not loaded. Throws MODEL_UNKNOWN, MEMORY_EXCEEDED, ... */
export async function leaseControls(
  registry: Pick<ServedModels, "acquire">,
  specs: readonly ControlSpec[],
): Promise<LeasedControls> {
  const releases: (() => void)[] = [];
  const release = (): void => {
    for (const each of releases) each();
  };
  try {
    const nets: LeasedControl[] = [];
    for (const spec of specs) {
      const lease = await registry.acquire(spec.model, "control-hint");
      releases.push(lease.release);
      const { model, path, checkpoint } = lease;
      const config = configOf(checkpoint, model);
      if (config.kind === "controlnet") {
        releases.push((await registry.acquire(spec.model, "control-net")).release);
      }
      nets.push({ ...{ spec, model, path, config } });
    }
    return { nets, release };
  } catch (error) {
    release();
    throw error;
  }
}

function configOf({ control }: Checkpoint, model: string): ControlConfig {
  if (control !== undefined) return control.config;
  throw new LunaError("MODEL_UNKNOWN", `${model} has no control net.`);
}

type Step = Readonly<{ unet: Checkpoint; tensors: Tensors }>;

/** How the engine uses them. Throws REQUEST_INVALID for what does not fit the step. */
export function controlUses({ nets }: LeasedControls, { unet, tensors }: Step): ControlUse[] {
  const [rows = 0, , height = 0, width = 0] = tensors.get("x")?.shape ?? [];
  return nets.map((net, index) => {
    const { spec, path, model } = net;
    checkFit(net, unet);
    const slot = `hint.${index}`;
    const hintRows = checkHint(net, { hint: tensors.get(slot)?.shape, slot, height, width });
    const acts = new Set(spec.rows ?? Array.from({ length: rows }, (_, row) => row));
    for (const row of acts)
      if (row >= rows) throw invalid(`Control ${index} names row ${row} of ${rows}.`);
    const { strength, type } = spec;
    return {
      ...{ path, slot, strength },
      ...(type !== undefined && { type }),
      ...(isPooled(model) && { isPooled: true }),
      hintRows: Array.from({ length: rows }, (_, row) => (acts.has(row) ? row % hintRows : -1)),
    };
  });
}

/** ComfyUI's rule: nothing but the file's name tells that a ControlNet was trained on means. */
function isPooled(model: string): boolean {
  return /_shuffle(_fp16)?\.safetensors$/.test(model);
}

function checkFit({ model, config, spec }: LeasedControl, { unet }: Checkpoint): void {
  if (unet === undefined) return;
  const place = misfit(config, unet.config);
  if (place !== undefined) {
    throw invalid(
      `${model} does not fit this UNet: its ${place.name} has ${place.width} channels at 1/${2 ** place.level} of the latent's sides. Choose a control net of the model's family.`,
    );
  }
  const types = config.kind === "controlnet" ? config.unionTypes : 0;
  if (spec.type !== undefined && types > 0 && spec.type >= types) {
    throw invalid(`${model} knows ${types} kinds of hints; there is no kind ${spec.type}.`);
  }
  if (config.kind !== "controlnet") return;
  const { contextDim, admChannels } = config.encoder;
  if (contextDim !== 0 && contextDim !== unet.config.contextDim) {
    throw invalid(
      `${model} takes contexts of ${contextDim} numbers, this UNet ${unet.config.contextDim}.`,
    );
  }
  if (admChannels !== 0 && admChannels !== unet.config.admChannels) {
    throw invalid(
      `${model} takes a "y" of ${admChannels} numbers, this UNet ${unet.config.admChannels}.`,
    );
  }
}

type Hint = Readonly<{
  hint: readonly number[] | undefined;
  slot: string;
  height: number;
  width: number;
}>;

/** Rows of the hint, whose sides must be those of the latent in pixels. */
function checkHint({ config }: LeasedControl, { hint, slot, height, width }: Hint): number {
  const multiple = config.kind === "controlnet" ? CELL_PIXELS : config.unshuffle;
  const side = (cells: number): number => Math.ceil((cells * CELL_PIXELS) / multiple) * multiple;
  const wanted = [config.hintChannels, side(height), side(width)];
  const [rows = 0, ...inner] = hint ?? [];
  if (rows >= 1 && rows <= HINT_ROWS_MAX && inner.join() === wanted.join()) return rows;
  const found = hint === undefined ? "missing" : `[${hint.join(", ")}]`;
  throw invalid(
    `Tensor "${slot}" is ${found}; [n, ${wanted.join(", ")}] is needed, n at most ${HINT_ROWS_MAX}.`,
  );
}

/** As many as a step has rows. */
const HINT_ROWS_MAX = 64;

function invalid(problem: string): LunaError {
  return new LunaError("REQUEST_INVALID", problem);
}
