import { setTimeout as wait } from "node:timers/promises";
import { type BenchBed, type Figures, median, round, stepInputs, timeSteps } from "./bed.ts";
import { EMPTY_SDXL } from "./models.ts";

const SMALL = { side: 32 } as const;
const LARGE = { side: 128, rows: 16 } as const;
const STEPS = 40;

/** How long a client with one row at 32x32 waits because of one with 16 rows at 128x128. */
export async function fairness(bed: BenchBed): Promise<Figures> {
  const name = await bed.unet("empty-sdxl", EMPTY_SDXL);
  const daemon = await bed.daemon();
  const small = await bed.model(daemon.url, name, "small");
  const large = await bed.model(daemon.url, name, "large");
  const alone = median(
    await timeSteps(small, SMALL, { count: bed.amount(STEPS), warmUp: bed.amount(20) }),
  );
  const inputs = stepInputs(large, LARGE);
  await large.forward(inputs);
  let isDone = false;
  const largeMs: number[] = [];
  const storm = (async () => {
    while (!isDone) {
      const beginMs = performance.now();
      await large.forward(inputs);
      largeMs.push(performance.now() - beginMs);
    }
  })();
  // Awaited below; a suite that is cut off must not end the program before it has told its figures.
  storm.catch(() => undefined);
  const stalls: number[] = [];
  const smallInputs = stepInputs(small, SMALL);
  for (let n = 0; n < bed.amount(STEPS); n++) {
    // At any moment of the large client's runs.
    await wait((n * 37) % 50);
    const beginMs = performance.now();
    await small.forward(smallInputs);
    stalls.push(Math.max(0, performance.now() - beginMs - alone));
  }
  isDone = true;
  await storm;
  await daemon.stop();
  const step = median(largeMs);
  const worst = Math.max(...stalls);
  return {
    stallSteps: round(worst / step),
    ...{ stallMs: { p50: round(median(stalls), 1), worst: round(worst, 1) } },
    ...{ aloneMs: round(alone, 1), largeStepMs: round(step, 1), largeRowMs: round(step / 16, 1) },
  };
}
