import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import type { DaemonModel } from "../../client/index.ts";
import { type BenchBed, type Figures, round, stepInputs } from "./bed.ts";
import { EMBEDDED, writeLora } from "./models.ts";

const FILES = 1000;
const RANK = 4;
const CACHE_MIB = 32;
/** LoRAs in use by turns, as a share of what the cache holds. */
const SHARES = [0.5, 0.9, 1.05, 1.25, 1.5, 2, 4];
const STEP = { side: 16 } as const;
const TURN_MS = 2500;

/**
 * A thousand files on disk, some of them in use by turns: each step takes the one that was used
 * longest ago, the worst order there is for a cache. Steps a second by how many are in use.
 */
export async function loraMany(bed: BenchBed): Promise<Figures> {
  const name = await bed.unet("embedded", EMBEDDED);
  const fileOf = (n: number) => `many-${n}.safetensors`;
  const pathOf = (n: number) => join(bed.folder, "loras", fileOf(n));
  const bytes = await writeLora(pathOf(0), EMBEDDED, { rank: RANK, seed: 7 });
  for (let n = 1; n < FILES; n++) await copyFile(pathOf(0), pathOf(n));
  const daemon = await bed.daemon(["--lora-cache-mib", String(CACHE_MIB)]);
  // In memory values have four bytes, in the file two.
  const fits = Math.floor((CACHE_MIB * 2 ** 20) / (2 * bytes));
  const client = await bed.client(daemon.url);
  const models: DaemonModel[] = [];
  for (let n = 0; n < Math.min(FILES, Math.round(fits * Math.max(...SHARES))); n++) {
    const { model } = await client.registerModelByPath({ name });
    if (model === undefined) break;
    model.addLora(fileOf(n), 0.8);
    models.push(model);
  }
  const rate = async (active: number): Promise<number> => {
    const own = models.slice(0, active);
    const inputs = own[0] && stepInputs(own[0], STEP);
    if (inputs === undefined) return 0;
    // The first two turns fill the cache.
    for (const model of [...own, ...own]) await model.forward(inputs);
    const beginMs = performance.now();
    let steps = 0;
    while (performance.now() - beginMs < bed.amount(TURN_MS)) {
      await own[steps % active]?.forward(inputs);
      steps++;
    }
    return (1000 * steps) / (performance.now() - beginMs);
  };
  const rows: { share: number; active: number; perSecond: number }[] = [];
  for (const share of SHARES) {
    const active = Math.max(1, Math.round(fits * share));
    rows.push({ share, active, perSecond: round(await rate(active), 1) });
  }
  await daemon.stop();
  return { files: FILES, fileBytes: bytes, cacheMiB: CACHE_MIB, fits, ...figuresOf(rows) };
}

/** Steps a second by share, and the smallest factor from one share to the next: 1 is none at all. */
function figuresOf(rows: readonly { share: number; active: number; perSecond: number }[]) {
  const ratios = rows.slice(1).map(({ perSecond }, at) => perSecond / (rows[at]?.perSecond ?? 1));
  const entries = rows.map(({ share, active, perSecond }) => [`${share}x`, { active, perSecond }]);
  return { ratioWorst: round(Math.min(...ratios)), byShare: Object.fromEntries(entries) };
}
