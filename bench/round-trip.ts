/**
 * The daemon's own share of a step: round trips through real sockets with nets that cost nothing.
 * `npx tsx bench/round-trip.ts` prints JSON; run it on an idle machine.
 */
import { join } from "node:path";
import { type LunaClient, openModels } from "../src/client/index.ts";
import { floatTensor } from "../src/tensor/index.ts";
import { createTestDaemon } from "../test/support/test-daemon.ts";

const STEPS = 500;
const WARM_UP = 100;

/** Milliseconds of each step: x is 64 KB (a 64x64 latent), the context is named by digest. */
async function measure(opened: LunaClient): Promise<{ p50: number; p95: number }> {
  const { model } = await opened.registerCheckpoint({ name: "test" });
  const x = floatTensor([1, 4, 64, 64]);
  const context = floatTensor([1, 77, 8]);
  for (let step = 0; step < WARM_UP + STEPS; step++) {
    await model?.forward({ x, timesteps: [step], context });
  }
  const sorted = opened.steps.steps
    .slice(WARM_UP)
    .map(({ totalMs }) => totalMs)
    .toSorted((a, b) => a - b);
  const at = (share: number) => Number((sorted[Math.floor(share * sorted.length)] ?? 0).toFixed(3));
  return { p50: at(0.5), p95: at(0.95) };
}

const daemon = await createTestDaemon();
const socketPath = join(daemon.folder, "luna.sock");
const { url } = await daemon.listen(process.platform === "win32" ? {} : { socketPath });
const results: Record<string, unknown> = {};
const ways = { webSocket: url, unixSocket: `ws+unix:${socketPath}:/v1/ws` };
for (const [name, way] of Object.entries(ways)) {
  if (name === "unixSocket" && process.platform === "win32") continue;
  const client = { name: "bench", version: "0" };
  const opened = await openModels({ mode: "force_daemon", url: way, client });
  results[name] = await measure(opened);
  await opened.close();
}
const { sessions } = await daemon.core.status();
await daemon.close();
console.log(
  JSON.stringify({ payloadBytes: 65536, steps: STEPS, totalMs: results, sessions }, null, 2),
);
