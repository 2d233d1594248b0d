import { type BenchBed, type Figures, median, rateOf, round } from "./bed.ts";
import { EMBEDDED } from "./models.ts";

/** Clients and latent sides; the rates of both ways are taken in turns, so that both see the same machine. */
const CASES = [
  ...[1, 2, 4, 8, 16].map((clients) => ({ clients, side: 16 })),
  { clients: 4, side: 32 },
  { clients: 8, side: 32 },
  { clients: 4, side: 64 },
] as const;
const TURNS = 5;
const TURN_MS = 1200;
/** Long enough for the caps of a shape to be known. */
const WARM_UP_MS = 3000;

/** Steps a second of 1 to 16 clients, against the same clients served one row at a time. */
export async function batching(bed: BenchBed): Promise<Figures> {
  const name = await bed.unet("embedded", EMBEDDED);
  const daemons = { measured: await bed.daemon(), alone: await bed.daemon(["--batch-rows", "1"]) };
  const rows = [];
  for (const { clients, side } of CASES) {
    bed.signal.throwIfAborted();
    const open = (url: string) =>
      Promise.all(Array.from({ length: clients }, () => bed.model(url, name)));
    const models = {
      measured: await open(daemons.measured.url),
      alone: await open(daemons.alone.url),
    };
    const rates = { measured: [] as number[], alone: [] as number[] };
    await rateOf(models.measured, { side }, bed.amount(WARM_UP_MS));
    await rateOf(models.alone, { side }, bed.amount(TURN_MS));
    for (let turn = 0; turn < TURNS; turn++) {
      for (const way of ["measured", "alone"] as const) {
        rates[way].push(await rateOf(models[way], { side }, bed.amount(TURN_MS)));
      }
    }
    const [measured, alone] = [median(rates.measured), median(rates.alone)];
    const ratio = round(measured / alone);
    bed.note(`  ${clients} clients, ${side}x${side}: ${ratio}`);
    rows.push({ clients, side, perSecond: round(measured, 1), alone: round(alone, 1), ratio });
  }
  const status = await (await bed.client(daemons.measured.url)).status();
  await daemons.measured.stop();
  await daemons.alone.stop();
  const ratios = rows.map(({ ratio }) => ratio);
  return {
    ...{ ratioWorst: Math.min(...ratios), ratioBest: Math.max(...ratios) },
    ...{ cases: rows, caps: status.batches.caps },
  };
}
