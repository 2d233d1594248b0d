import type { DaemonModel } from "../../client/index.ts";
import { quantile } from "../table.ts";
import { type BenchBed, type Figures, round, type Step, timeSteps } from "./bed.ts";
import { EMPTY_SD15, EMPTY_SDXL } from "./models.ts";

const WARM_UP = 30;
/** Steps of each payload: a step of the larger one takes some ten times as long. */
const STEPS = { sd15: 400, sdxl: 100 } as const;

/** Round trip minus the time inside the engine's session: what the daemon itself costs a step. */
async function overheadOf(
  bed: BenchBed,
  model: DaemonModel,
  { count, ...step }: Step & { count: number },
): Promise<Record<string, number>> {
  await timeSteps(model, step, { count: 0, warmUp: bed.amount(WARM_UP) });
  const before = model.steps.length;
  await timeSteps(model, step, { count: bed.amount(count) });
  const steps = model.steps.slice(before);
  const overheads = steps.map(({ totalMs, engineMs }) => totalMs - engineMs);
  const at = (share: number) => round(quantile(overheads, share));
  const engineMs = round(
    quantile(
      steps.map((each) => each.engineMs),
      0.5,
    ),
  );
  return { p50Ms: at(0.5), p95Ms: at(0.95), p99Ms: at(0.99), engineMs };
}

/** One client, one step in flight, SD1.5's and SDXL's payloads (64x64 and 128x128 latents). */
export async function overhead(bed: BenchBed): Promise<Figures> {
  const names = {
    sd15: await bed.unet("empty-sd15", EMPTY_SD15),
    sdxl: await bed.unet("empty-sdxl", EMPTY_SDXL),
  };
  const daemon = await bed.daemon();
  const measure = async (url: string) => ({
    ...(await overheadOf(bed, await bed.model(url, names.sd15), { side: 64, count: STEPS.sd15 })),
    sdxl: await overheadOf(bed, await bed.model(url, names.sdxl), { side: 128, count: STEPS.sdxl }),
  });
  const ws = await measure(daemon.url);
  const unix = process.platform === "win32" ? ws : await measure(daemon.socketUrl);
  await daemon.stop();
  return { ws, unix };
}
