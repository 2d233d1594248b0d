/** The same UNet in PyTorch on the same machine: SD1.5 at full width, float32, random weights. */
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import type { DaemonModel } from "../../client/index.ts";
import { relativeError } from "../acceptance/bench.ts";
import { processMemory } from "../process-memory.ts";
import {
  type BenchBed,
  type Figures,
  median,
  rateOf,
  round,
  stepInputs,
  timeSteps,
} from "./bed.ts";
import { FULL_SD15, writeLora } from "./models.ts";
import { type TorchAnswer, TorchProcess } from "./torch-process.ts";

const HEADS = 8;
/** Sides of the latent, and how often each is measured in turns with the other program. */
const SIDES = [
  { side: 32, turns: 7 },
  { side: 64, turns: 3 },
] as const;
/** Threads of both spin a while after their work, and would take the other one's time. */
const REST_MS = 400;
const SWITCH_TURNS = 5;
const RANK = 16;
const INSTANCES = 2;
const INSTANCES_MS = 20_000;

async function openBoth(bed: BenchBed, python: string) {
  const name = await bed.unet("full", FULL_SD15);
  const path = join(bed.folder, name);
  const daemon = await bed.daemon();
  const start = async () => {
    const { process, version } = await TorchProcess.start(python, { path, heads: HEADS });
    bed.own({ close: () => process.stop() });
    return { process, version };
  };
  return { name, daemon, start };
}

function torchStep(torch: TorchProcess, model: DaemonModel, side: number, result = false) {
  const { x, context } = stepInputs(model, { side });
  const inputs = { x: [...x.data], context: [...context.data] };
  return torch.ask({ do: "step", side, result, ...inputs });
}

/** Milliseconds of a step in both, taken in turns; and how far the two results are apart. */
export async function torchStepSuite(bed: BenchBed, python: string): Promise<Figures> {
  const { name, daemon, start } = await openBoth(bed, python);
  const model = await bed.model(daemon.url, name);
  const { process: torch, version } = await start();
  const figures: Record<string, number | string | object> = { version };
  for (const { side, turns } of SIDES) {
    const [luna, other]: number[][] = [[], []];
    const own = await model.forward(stepInputs(model, { side }));
    const { out = [] } = await torchStep(torch, model, side, true);
    for (let turn = 0; turn < bed.amount(turns); turn++) {
      await wait(REST_MS);
      luna?.push(...(await timeSteps(model, { side }, { count: 1 })));
      await wait(REST_MS);
      other?.push((await torchStep(torch, model, side)).ms ?? 0);
    }
    const [lunaMs, torchMs] = [median(luna ?? []), median(other ?? [])];
    const ratio = round(torchMs / lunaMs);
    bed.note(`  ${side}x${side}: ${round(lunaMs, 0)} ms, PyTorch ${round(torchMs, 0)} ms`);
    figures[`unet${side}`] = {
      ...{ ratio, lunaMs: round(lunaMs, 1), torchMs: round(torchMs, 1) },
      error: relativeError(own.data, Float32Array.from(out)),
    };
  }
  await torch.stop();
  await daemon.stop();
  return figures;
}

/** What it costs to go from one adapter to another: weights patched again, against inputs of a step. */
export async function torchSwitchSuite(bed: BenchBed, python: string): Promise<Figures> {
  const { name, daemon, start } = await openBoth(bed, python);
  const { process: torch } = await start();
  const { layers = 0 } = await torch.ask({ do: "adapters", rank: RANK });
  const patches: number[] = [];
  for (let turn = 0; turn <= bed.amount(SWITCH_TURNS); turn++) {
    const { ms = 0 }: TorchAnswer = await torch.ask({ do: "switch", strength: 0.5 + turn / 10 });
    // The first one saves the weights.
    if (turn > 0) patches.push(ms);
  }
  await torch.stop();
  const models = await Promise.all(
    ["a", "b"].map(async (lora, index) => {
      const file = join(bed.folder, "loras", `full-${lora}.safetensors`);
      await writeLora(file, FULL_SD15, { rank: RANK, seed: index + 1 });
      const model = await bed.model(daemon.url, name);
      model.addLora(`full-${lora}.safetensors`, 0.8);
      await timeSteps(model, { side: 32 }, { count: 1 });
      return model;
    }),
  );
  const times: { same: number[]; switched: number[] } = { same: [], switched: [] };
  for (let turn = 0; turn < bed.amount(SWITCH_TURNS); turn++) {
    for (const model of models) {
      const [switched = 0, same = 0] = await timeSteps(model, { side: 32 }, { count: 2 });
      times.switched.push(switched);
      times.same.push(same);
    }
  }
  await daemon.stop();
  const [torchMs, same, switched] = [patches, times.same, times.switched].map(median);
  const lunaMs = (switched ?? 0) - (same ?? 0);
  return {
    ...{ torchMs: round(torchMs ?? 0, 1), lunaMs: round(lunaMs, 1), layers, rank: RANK },
    ...{ stepMs: round(same ?? 0, 1), switchedStepMs: round(switched ?? 0, 1) },
  };
}

const bytesOf = (pids: readonly number[]): { rssBytes: number; privateBytes: number } => {
  const all = pids.map((pid) => processMemory(pid));
  const sum = (key: "rssBytes" | "privateBytes") =>
    all.reduce((total, memory) => total + (memory?.[key] ?? 0), 0);
  return { rssBytes: sum("rssBytes"), privateBytes: sum("privateBytes") };
};

/** Programs with a copy of the model each, against as many clients of one daemon. */
export async function torchInstancesSuite(bed: BenchBed, python: string): Promise<Figures> {
  const { name, daemon, start } = await openBoth(bed, python);
  const models = await Promise.all(
    Array.from({ length: INSTANCES }, () => bed.model(daemon.url, name)),
  );
  const [first] = models;
  if (first === undefined) return {};
  await rateOf(models, { side: 32 }, bed.amount(INSTANCES_MS / 4));
  const lunaRate = await rateOf(models, { side: 32 }, bed.amount(INSTANCES_MS));
  const watcher = await bed.client(daemon.url, "watcher");
  const lunaBytes = bytesOf([daemon.pid, (await watcher.status()).engine.pid]);
  await daemon.stop();
  const others = [];
  for (let n = 0; n < INSTANCES; n++) others.push((await start()).process);
  for (const other of others) {
    await other.ask({ do: "threads", count: bed.threadsEach(INSTANCES) });
    await torchStep(other, first, 32);
  }
  let steps = 0;
  const beginMs = performance.now();
  const durationMs = bed.amount(INSTANCES_MS);
  await Promise.all(
    others.map(async (other) => {
      while (performance.now() - beginMs < durationMs) {
        await torchStep(other, first, 32);
        steps++;
      }
    }),
  );
  const torchRate = steps / ((performance.now() - beginMs) / 1000);
  const torchBytes = bytesOf(others.map(({ pid }) => pid));
  for (const other of others) await other.stop();
  return {
    instances: INSTANCES,
    ratio: round(lunaRate / torchRate),
    luna: { perSecond: round(lunaRate), ...lunaBytes },
    torch: { perSecond: round(torchRate), ...torchBytes },
  };
}
