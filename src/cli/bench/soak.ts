import type { LunaClient } from "../../client/index.ts";
import { processMemory } from "../process-memory.ts";
import { type BenchBed, type Figures, round, stepInputs } from "./bed.ts";
import { EMBEDDED } from "./models.ts";

const CLIENTS = 4;
const SAMPLES = 100;

/** Resident bytes of daemon and engine over many steps, and their slope after the first fifth. */
export async function soak(bed: BenchBed, steps: number): Promise<Figures> {
  const name = await bed.unet("embedded", EMBEDDED);
  const daemon = await bed.daemon();
  const models = await Promise.all(
    Array.from({ length: CLIENTS }, (_, n) => bed.model(daemon.url, name, `soak ${n}`)),
  );
  const watcher = await bed.client(daemon.url, "watcher");
  const samples: { steps: number; bytes: number }[] = [];
  let done = 0;
  const beginMs = performance.now();
  await Promise.all(
    models.map(async (model, client) => {
      // Shapes change as users change them, and each client has its own.
      for (let n = 0; done < steps; n++) {
        bed.signal.throwIfAborted();
        const side = 8 + 2 * ((client + Math.floor(n / 500)) % 3);
        await model.forward(stepInputs(model, { side, seed: (client + n) % 64 }));
        done++;
        const isDue = done >= (samples.length * steps) / SAMPLES;
        if (isDue) samples.push({ steps: done, bytes: await residentBytes(watcher, daemon.pid) });
      }
    }),
  );
  const seconds = (performance.now() - beginMs) / 1000;
  await daemon.stop();
  const settled = samples.filter((sample) => sample.steps > done / 5);
  return {
    rssSlopeBytesPerStep: round(slope(settled), 2),
    ...{ steps: done, stepsPerSecond: round(done / seconds, 1) },
    ...{ firstBytes: settled[0]?.bytes ?? 0, lastBytes: settled.at(-1)?.bytes ?? 0 },
  };
}

async function residentBytes(watcher: LunaClient, daemonPid: number): Promise<number> {
  const { engine } = await watcher.status();
  const bytes = (pid: number) => processMemory(pid)?.rssBytes ?? 0;
  return bytes(daemonPid) + bytes(engine.pid);
}

/** Least squares. */
function slope(samples: readonly { steps: number; bytes: number }[]): number {
  const mean = (value: (sample: { steps: number; bytes: number }) => number) =>
    samples.reduce((sum, sample) => sum + value(sample), 0) / samples.length;
  const [x, y] = [mean(({ steps }) => steps), mean(({ bytes }) => bytes)];
  const covariance = mean(({ steps, bytes }) => (steps - x) * (bytes - y));
  return covariance / mean(({ steps }) => (steps - x) ** 2);
}
