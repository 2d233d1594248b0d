/** Finds ControlNets and T2I-Adapters by their keys, in LDM and in diffusers naming. */
import { controlNetLayers, t2iAdapterLayers } from "./control-layers.ts";
import { readEncoder } from "./detect-unet.ts";
import type { Layer } from "./layer.ts";
import { RES_BLOCKS_MAX, UNION_TYPES_MAX } from "./limits.ts";
import type { Component, ControlConfig, ControlNetConfig, T2IAdapterConfig } from "./types.ts";
import { refuseForeignControl, unsupported } from "./unsupported.ts";
import {
  axisOf,
  below,
  countRow,
  type Entries,
  finder,
  ldmNames,
  type StoredNames,
  storedNames,
  takeWeights,
} from "./weights.ts";

/** The files that hold a whole model beside the ControlNet keep it under this prefix. */
const PREFIX = "control_model.";
const LDM_KEY = "zero_convs.0.0.weight";
const DIFFUSERS_KEY = "controlnet_cond_embedding.conv_in.weight";

/** The control net of a file, and what else there is in it. Throws CHECKPOINT_UNSUPPORTED. */
export function takeControl(file: Entries): {
  control: Component<ControlConfig> | undefined;
  rest: Entries;
} {
  refuseForeignControl(file.keys());
  if (file.has(PREFIX + LDM_KEY)) {
    const control = readControlNet(below(file, PREFIX), true);
    return { control, rest: new Map([...file].filter(([name]) => !name.startsWith(PREFIX))) };
  }
  const isLdm = file.has(LDM_KEY);
  const read = isLdm || file.has(DIFFUSERS_KEY) ? readControlNet : adapterReader(file);
  if (read === undefined) return { control: undefined, rest: file };
  return { control: read(file, isLdm), rest: new Map() };
}

/** What only Union nets have is not all named as layers are: torch's attention joins its projections. */
const unionNames: StoredNames = (name) => {
  const stored = name === "task_embedding.weight" ? "task_embedding" : name;
  return [stored, stored.replace(".attn.in_proj.", ".attn.in_proj_")];
};

function readControlNet(entries: Entries, isLdm: boolean): Component<ControlNetConfig> {
  const first = isLdm ? "input_blocks.0.0.weight" : "conv_in.weight";
  if (!entries.has(first)) throw unsupported(`an incomplete ControlNet: "${first}" is missing`);
  const { encoder } = readEncoder(entries, isLdm);
  const hint = isLdm ? "input_hint_block.0.weight" : DIFFUSERS_KEY;
  const isUnion = entries.has("task_embedding");
  const unionTypes = isUnion ? axisOf(entries, "task_embedding", 0) : 0;
  if (unionTypes > UNION_TYPES_MAX) throw unsupported(`a Union ControlNet of ${unionTypes} kinds`);
  const hintChannels = axisOf(entries, hint, 1);
  const config: ControlNetConfig = { kind: "controlnet", encoder, hintChannels, unionTypes };
  const layers = controlNetLayers(config);
  const stored = isLdm ? unionNames : diffusersOf(layers);
  return take("ControlNet", { entries, config, layers, stored });
}

/** The names of diffusers' ControlNetModel; the label embedding has two there. */
function diffusersOf(layers: readonly Layer[]): StoredNames {
  const theirs = new Map(layers.map(({ name, diffusers }) => [diffusers, name]));
  for (const { name, diffusers } of layers) {
    if (diffusers.startsWith("add_embedding.")) theirs.set(diffusers.replace("add", "class"), name);
  }
  const stored = storedNames(theirs);
  return (name) => stored(name).flatMap(unionNames);
}

type Read = Readonly<{
  entries: Entries;
  layers: readonly Layer[];
  stored: StoredNames;
}>;

/** The weights of all layers; another layer would change what the net computes. */
function take<Config extends ControlConfig>(
  what: string,
  { entries, layers, stored, config }: Read & Readonly<{ config: Config }>,
): Component<Config> {
  const weights = takeWeights(what, layers, finder(entries, stored));
  const known = new Set([...weights.keys()].flatMap(stored));
  const other = [...entries.keys()].find((name) => !known.has(name) && name.includes("."));
  if (other !== undefined) throw unsupported(`a ${what} with the unknown layer "${other}"`);
  return { config, weights };
}

type AdapterPlaces = Readonly<{
  isLight: boolean;
  isDiffusers: boolean;
}>;

function adapterReader(
  file: Entries,
): ((file: Entries) => Component<T2IAdapterConfig>) | undefined {
  for (const isDiffusers of [true, false]) {
    const at = isDiffusers ? "adapter." : "";
    const isLight = file.has(`${at}body.0.in_conv.weight`);
    const first = isDiffusers ? "resnets.0.block1" : isLight ? "body.0.block1" : "block1";
    if (!file.has(`${at}body.0.${first}.weight`)) continue;
    if (!isLight && !file.has(`${at}conv_in.weight`)) continue;
    return (entries) => readAdapter(entries, { isLight, isDiffusers });
  }
  return undefined;
}

const LEVELS = 4;

/** Residual blocks of a level; one that is not light has them in one row, two a level. */
function resBlocksOf(entries: Entries, { isLight, isDiffusers }: AdapterPlaces): number {
  if (!isLight && !isDiffusers) return 2;
  const block = isDiffusers ? "adapter.body.0.resnets" : "body.0.body";
  const limit = { max: RES_BLOCKS_MAX, what: "residual blocks in a level of the T2I-Adapter" };
  return countRow(entries, (j) => `${block}.${j}.block1.weight`, limit);
}

function readAdapter(entries: Entries, places: AdapterPlaces): Component<T2IAdapterConfig> {
  const { isLight, isDiffusers } = places;
  const at = isDiffusers ? "adapter." : "";
  const resBlocks = resBlocksOf(entries, places);
  const inputs = axisOf(entries, `${at}${isLight ? "body.0.in_conv" : "conv_in"}.weight`, 1);
  const unshuffle = !isLight && (inputs === 256 || inputs === 768) ? 16 : 8;
  const block = (level: number, j: number): string =>
    isDiffusers
      ? `${at}body.${level}.resnets.${j}`
      : isLight
        ? `body.${level}.body.${j}`
        : `body.${level * resBlocks + j}`;
  const widths = Array.from({ length: LEVELS }, (_, level) =>
    axisOf(
      entries,
      isLight ? `${at}body.${level}.out_conv.weight` : `${block(level, 0)}.block1.weight`,
      0,
    ),
  );
  const kernel = axisOf(entries, `${block(0, 0)}.block2.weight`, 2);
  const hintChannels = inputs / unshuffle ** 2;
  if ((kernel !== 1 && kernel !== 3) || !Number.isInteger(hintChannels)) {
    throw unsupported(`a T2I-Adapter of ${inputs} inputs and kernels of ${kernel}`);
  }
  const hasConvDown = [...entries.keys()].some((name) => name.endsWith("down_opt.op.weight"));
  const config: T2IAdapterConfig = {
    ...{ kind: "t2i-adapter", isLight, unshuffle, hintChannels, widths },
    ...{ resBlocks, kernel, hasConvDown },
  };
  const layers = t2iAdapterLayers(config);
  const theirs = new Map(layers.map(({ name, diffusers }) => [diffusers, name]));
  const stored = isDiffusers ? storedNames(theirs) : ldmNames;
  return take("T2I-Adapter", { entries, config, layers, stored });
}
