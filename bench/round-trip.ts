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

type Figures = Readonly<Record<string, { p50: number; p95: number }>>;

/**
 * Milliseconds of a step by where they go. x and the answer are 64 KB each (a 64x64 latent); client
 * and daemon share one process here, so their work adds up.
 */
async function measure(opened: LunaClient): Promise<Figures> {
  const { model } = await opened.registerCheckpoint({ name: "test" });
  const x = floatTensor([1, 4, 64, 64]);
  const context = floatTensor([1, 77, 8]);
  for (let step = 0; step < WARM_UP + STEPS; step++) {
    await model?.forward({ x, timesteps: [step], context });
  }
  const steps = opened.steps.steps.slice(WARM_UP);
  const parts = ["totalMs", "overheadMs", "queueMs", "engineMs"] as const;
  return Object.fromEntries(
    parts.map((part) => {
      const sorted = steps.map((step) => step[part]).toSorted((a, b) => a - b);
      const at = (share: number) =>
        Number((sorted[Math.floor(share * sorted.length)] ?? 0).toFixed(3));
      return [part, { p50: at(0.5), p95: at(0.95) }];
    }),
  );
}

const daemon = await createTestDaemon();
const hasUnixSockets = process.platform !== "win32";
const socketPath = join(daemon.folder, "luna.sock");
const { url } = await daemon.listen(hasUnixSockets ? { socketPath } : {});
const ways = {
  webSocket: url,
  ...(hasUnixSockets ? { unixSocket: `ws+unix:${socketPath}:/v1/ws` } : {}),
};
const results: Record<string, Figures> = {};
for (const [name, way] of Object.entries(ways)) {
  const client = { name: "bench", version: "0" };
  const opened = await openModels({ mode: "force_daemon", url: way, client });
  results[name] = await measure(opened);
  await opened.close();
}
await daemon.close();
console.log(JSON.stringify({ payloadBytes: 65536, steps: STEPS, ...results }, null, 2));
