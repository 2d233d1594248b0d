/** The inputs of FreeU and PerturbedAttentionGuidance in a full UNet graph, neutral where unused. */
import { frequencyInputs, lowFrequencies } from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import type { RunItem, UNetFeatures } from "./port.ts";

export const hasFeatures = ({ features }: RunItem): boolean =>
  features?.freeu !== undefined || (features?.pag?.blocks.length ?? 0) > 0;

type Batch = Readonly<{
  /** Batch rows of each item. */
  rows: readonly number[];
  /** Height and width of x. */
  size: readonly [number, number];
}>;

/** Throws REQUEST_INVALID for a block without self-attention. */
export function featureFeeds(
  inputNames: readonly string[],
  items: readonly RunItem[],
  { rows, size }: Batch,
): ReadonlyMap<string, FloatTensor> {
  const feeds = new Map<string, FloatTensor>();
  const perRow = items.flatMap(({ features }, index) =>
    new Array<UNetFeatures | undefined>(rows[index] ?? 0).fill(features),
  );
  checkBlocks(inputNames, items);
  for (const name of inputNames) {
    const values = rowValues(name);
    if (values === undefined) continue;
    const data = Float32Array.from(perRow, values);
    const shape = name.startsWith("pag.") ? [perRow.length, 1, 1] : [perRow.length, 1, 1, 1];
    feeds.set(name, { shape, data });
  }
  for (let level = 0; inputNames.some((name) => name.startsWith("freeu.")) && level < 8; level++) {
    addLevel(feeds, inputNames, { level, size });
  }
  return feeds;
}

/** What each row has at an input of one number a row; undefined for other inputs. */
function rowValues(name: string): ((features: UNetFeatures | undefined) => number) | undefined {
  if (name.startsWith("pag.")) {
    const block = name.slice("pag.".length);
    return (features) => (features?.pag?.blocks.some((own) => isBlock(own, block)) ? 1 : 0);
  }
  switch (name) {
    case "freeu.0.backbone":
      return (features) => features?.freeu?.b1 ?? 1;
    case "freeu.1.backbone":
      return (features) => features?.freeu?.b2 ?? 1;
    case "freeu.0.skip":
      return (features) => features?.freeu?.s1 ?? 1;
    case "freeu.1.skip":
      return (features) => features?.freeu?.s2 ?? 1;
    case "freeu.version":
      return (features) => features?.freeu?.version ?? 1;
    default:
      return undefined;
  }
}

/** "middle.0" names all transformer blocks of a block, "middle.0.1" one of them. */
const isBlock = (own: string, block: string): boolean =>
  block === own || block.startsWith(`${own}.`);

function checkBlocks(inputNames: readonly string[], items: readonly RunItem[]): void {
  const blocks = inputNames.filter((name) => name.startsWith("pag."));
  for (const own of items.flatMap(({ features }) => features?.pag?.blocks ?? [])) {
    if (blocks.some((name) => isBlock(own, name.slice("pag.".length)))) continue;
    throw new LunaError("REQUEST_INVALID", `The UNet has no self-attention in block "${own}".`);
  }
}

/** Each level halves the picture, rounded up. */
function addLevel(
  feeds: Map<string, FloatTensor>,
  inputNames: readonly string[],
  { level, size }: Readonly<{ level: number; size: readonly [number, number] }>,
): void {
  const names = frequencyInputs(level);
  if (!inputNames.includes(names.rows.cosine)) return;
  for (const [index, axis] of (["rows", "columns"] as const).entries()) {
    const cells = Math.ceil((size[index] ?? 0) / 2 ** level);
    const { cosine, sine } = lowFrequencies(cells);
    feeds.set(names[axis].cosine, { shape: [cells, cells], data: cosine });
    feeds.set(names[axis].sine, { shape: [cells, cells], data: sine });
  }
}
