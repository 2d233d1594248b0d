import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import type { DaemonModel } from "../../client/index.ts";
import {
  type BenchBed,
  type Figures,
  median,
  rateOf,
  round,
  type Step,
  stepInputs,
  timeSteps,
} from "./bed.ts";
import { EMBEDDED, FULL_SD15, writeLora } from "./models.ts";

const CLIENTS = 8;
const RANK = 16;
const TURNS = 5;
const TURN_MS = 2000;
const WARM_UP_MS = 4000;
const STEP = { side: 16 } as const;
/** The first finds the code cold, as after a start. */
const FIRST_USES = 7;
/** A rank at which the file has about the 27 MB of SD1.5's at rank 16. */
const LARGE_RANK = 327;

async function loraNames(bed: BenchBed, count: number): Promise<string[]> {
  const names = Array.from({ length: count }, (_, n) => `bench-${n}.safetensors`);
  for (const [seed, name] of names.entries()) {
    await writeLora(join(bed.folder, "loras", name), EMBEDDED, { rank: RANK, seed: seed + 1 });
  }
  return names;
}

/** Eight clients with eight LoRAs, with the same one, and with none: steps a second. */
export async function loraMix(bed: BenchBed): Promise<Figures> {
  const name = await bed.unet("embedded", EMBEDDED);
  const loras = await loraNames(bed, CLIENTS);
  const daemon = await bed.daemon();
  const open = (loraOf: (client: number) => string | undefined) =>
    Promise.all(
      Array.from({ length: CLIENTS }, async (_, client) => {
        const model = await bed.model(daemon.url, name);
        const lora = loraOf(client);
        if (lora !== undefined) model.addLora(lora, 0.8);
        return model;
      }),
    );
  const ways = {
    mixed: await open((client) => loras[client]),
    same: await open(() => loras[0]),
    none: await open(() => undefined),
  };
  const rates = { mixed: [] as number[], same: [] as number[], none: [] as number[] };
  for (const models of Object.values(ways)) await rateOf(models, STEP, bed.amount(WARM_UP_MS));
  for (let turn = 0; turn < TURNS; turn++) {
    for (const way of ["mixed", "same", "none"] as const) {
      rates[way].push(await rateOf(ways[way], STEP, bed.amount(TURN_MS)));
    }
  }
  await daemon.stop();
  const [mixed, same, none] = [rates.mixed, rates.same, rates.none].map(median);
  return {
    ratio: round((same ?? 0) / (mixed ?? 1)),
    ...{ ratioToNone: round((none ?? 0) / (mixed ?? 1)), rank: RANK },
    perSecond: {
      mixed: round(mixed ?? 0, 1),
      same: round(same ?? 0, 1),
      none: round(none ?? 0, 1),
    },
  };
}

/**
 * One client: two stacks in turns against no LoRA, and against one that stays, on the embedded model
 * and on SD1.5 at full width; then a first use.
 */
export async function loraSwitch(bed: BenchBed): Promise<Figures> {
  const name = await bed.unet("embedded", EMBEDDED);
  const loras = await loraNames(bed, 2);
  const large = join(bed.folder, "loras", "large.safetensors");
  const largeBytes = await writeLora(large, EMBEDDED, { rank: LARGE_RANK, seed: 99 });
  for (let n = 0; n < FIRST_USES; n++) {
    await copyFile(large, join(bed.folder, "loras", `large-${n}.safetensors`));
  }
  const daemon = await bed.daemon();
  const with_ = stackOn(bed, daemon.url, name);
  const embedded = await switching(with_, loras, { step: STEP, count: bed.amount(400) });
  const firstUses: number[] = [];
  let steadyMs = 0;
  for (let n = 0; n < FIRST_USES; n++) {
    const fresh = await with_(`large-${n}.safetensors`);
    const [firstMs = 0] = await timeSteps(fresh, STEP, { count: 1 });
    steadyMs = median(await timeSteps(fresh, STEP, { count: 20 }));
    firstUses.push(firstMs - steadyMs);
  }
  const overlap = await readBeside(await with_(), await with_("large.safetensors"));
  await daemon.stop();
  return {
    ...embedded,
    sd15: await switchingSd15(bed),
    firstUse: {
      ms: round(median(firstUses), 1),
      firstMs: round(firstUses[0] ?? 0, 1),
      ...{ bytes: largeBytes, steadyMs: round(steadyMs), overlap },
    },
  };
}

type Stacked = (...names: string[]) => Promise<DaemonModel>;

/** Clients of their own, each with the stack it is asked for. */
function stackOn(bed: BenchBed, url: string, model: string): Stacked {
  return async (...names) => {
    const opened = await bed.model(url, model);
    for (const lora of names) opened.addLora(lora, 0.7);
    return opened;
  };
}

async function switchingSd15(bed: BenchBed): Promise<Figures> {
  const name = await bed.unet("full", FULL_SD15);
  const loras = ["sd15-0.safetensors", "sd15-1.safetensors"];
  for (const [seed, lora] of loras.entries()) {
    await writeLora(join(bed.folder, "loras", lora), FULL_SD15, { rank: RANK, seed: seed + 1 });
  }
  const daemon = await bed.daemon();
  const with_ = stackOn(bed, daemon.url, name);
  const figures = await switching(with_, loras, { step: { side: 32 }, count: bed.amount(12) });
  await daemon.stop();
  return figures;
}

/** Medians of steps without a LoRA, with two stacks in turns and with one that stays, taken in turns. */
async function switching(
  with_: Stacked,
  [one = "", two = ""]: readonly string[],
  { step, count }: { step: Step; count: number },
): Promise<Figures> {
  const [none, first, second] = [await with_(), await with_(one), await with_(one, two)];
  const times = { none: [] as number[], stays: [] as number[], turns: [] as number[] };
  const inputs = stepInputs(none, step);
  const timed = async (model: DaemonModel, into: number[], n: number) => {
    const beginMs = performance.now();
    await model.forward(inputs);
    if (n >= 0) into.push(performance.now() - beginMs);
  };
  const warmUp = Math.ceil(count / 8) + 1;
  for (let n = -warmUp; n < count; n++) {
    await timed(none, times.none, n);
    await timed(n % 2 ? first : second, times.turns, n);
  }
  for (const model of [first, second]) {
    for (let n = -warmUp; n < count / 2; n++) await timed(model, times.stays, n);
  }
  const [noneMs, turnsMs, staysMs] = [times.none, times.turns, times.stays].map(median);
  return {
    ratio: round((turnsMs ?? 0) / (noneMs ?? 1)),
    ratioToSame: round((turnsMs ?? 0) / (staysMs ?? 1)),
    ...{ noneMs: round(noneMs ?? 0), turnsMs: round(turnsMs ?? 0), staysMs: round(staysMs ?? 0) },
  };
}

/** The slowest step of one client while another's file is read, against its slowest without. */
async function readBeside(stepping: DaemonModel, reading: DaemonModel): Promise<object> {
  const inputs = stepInputs(stepping, STEP);
  const worstMs = async (isOver: (n: number) => boolean): Promise<number> => {
    let worst = 0;
    for (let n = 0; !isOver(n); n++) {
      const beginMs = performance.now();
      await stepping.forward(inputs);
      worst = Math.max(worst, performance.now() - beginMs);
    }
    return round(worst);
  };
  const alone = await worstMs((n) => n >= 30);
  let isRead = false;
  const reads = reading.forward(inputs).then(() => {
    isRead = true;
  });
  const beside = await worstMs(() => isRead);
  await reads;
  return { worstStepAloneMs: alone, worstStepBesideMs: beside };
}
