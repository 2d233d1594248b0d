import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { type BenchBed, type Figures, median, round, timeSteps } from "./bed.ts";
import { FULL_SD15 } from "./models.ts";

const STEP = { side: 32 } as const;

/** From the first request for a 3.4 GB checkpoint in the page cache to the answer of its first step. */
export async function coldstart(bed: BenchBed): Promise<Figures> {
  const name = await bed.unet("full", FULL_SD15);
  const path = join(bed.folder, name);
  const beginReadMs = performance.now();
  for await (const _ of createReadStream(path, { highWaterMark: 2 ** 22 }));
  const readMs = performance.now() - beginReadMs;
  const daemon = await bed.daemon();
  const client = await bed.client(daemon.url);
  const beginMs = performance.now();
  const { model } = await client.registerModelByPath({ name });
  if (!model) return {};
  const [stepMs = 0] = await timeSteps(model, STEP, { count: 1 });
  const totalMs = performance.now() - beginMs;
  const steady = median(await timeSteps(model, STEP, { count: 5 }));
  await daemon.stop();
  return {
    ms: round(totalMs, 0),
    ...{ beforeStepMs: round(totalMs - steady, 0), firstStepMs: round(stepMs, 0) },
    ...{ stepMs: round(steady, 0), readFileMs: round(readMs, 0), bytes: (await stat(path)).size },
  };
}
