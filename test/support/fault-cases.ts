/** What may befall a daemon while four clients make pictures; short in npm test, long on demand. */

import { rm } from "node:fs/promises";
import { createServer } from "node:net";
import { setTimeout as wait } from "node:timers/promises";
import { expect } from "vitest";
import { startAndAwait } from "../../src/cli/child-process.ts";
import { type DaemonModel, type LunaClient, openModels } from "../../src/client/index.ts";
import { disturb, makePictures } from "./pictures.ts";
import { startRealDaemon, TINY, tinyModels } from "./real-daemon.ts";

const CLIENTS = 4;

export type FaultCase = Readonly<{
  /** Pictures of each client, and their steps. */
  each: number;
  steps: number;
  /** From the moment the last death was healed to the next kill. */
  pauseMs: readonly [number, number];
  killsMax?: number;
}>;

function kill(pid: number): void {
  try {
    if (pid > 0) process.kill(pid, "SIGKILL");
  } catch {
    // It has just died of something else.
  }
}

const largest = (ones: readonly Float32Array[], others: readonly Float32Array[]): number =>
  Math.max(
    ...ones.map((one, n) =>
      one.reduce((most, value, at) => Math.max(most, Math.abs(value - (others[n]?.[at] ?? 0))), 0),
    ),
  );

/**
 * kill -9 of the engine at random moments. With one row a run the pictures are the same bytes;
 * in shared runs company changes the order of sums, so they are near.
 */
export async function killEngine(batchRows: string, scenario: FaultCase) {
  const { each, steps, pauseMs, killsMax: countMax } = scenario;
  const daemon = await startRealDaemon({ "batch-rows": batchRows });
  try {
    const names = Array.from({ length: CLIENTS }, (_, index) => `client ${index}`);
    const models = await Promise.all(names.map((name) => daemon.model(name)));
    const calm = await makePictures(models, each, { steps });
    const healed = () => daemon.events.filter(({ event }) => event === "engine.restarted").length;
    const killOnce = async () => {
      const before = healed();
      kill(await daemon.enginePid());
      while (healed() === before) await wait(10);
    };
    const stop = disturb(killOnce, {
      ...{ seed: "engine", pauseMs },
      ...(countMax ? { countMax } : {}),
    });
    const stormy = await makePictures(models, each, { steps }).finally(stop);
    return { pictures: stormy.length, kills: healed(), largest: largest(calm, stormy) };
  } finally {
    await daemon.close();
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" ? (address?.port ?? 0) : 0));
    });
  });
}

/** kill -9 of a supervised daemon: clients come back by themselves, no picture is lost. */
export async function killDaemon(scenario: FaultCase) {
  const { each, steps, pauseMs, killsMax: countMax } = scenario;
  const folder = await tinyModels();
  const port = await freePort();
  const flags = ["--port", String(port), "--socket", "off", "--models", folder, "--threads", "1"];
  const { process: supervisor } = await startAndAwait(
    ["serve", "--supervise", "--device", "cpu", "--batch-rows", "1", ...flags],
    (line) => (line.includes("server running") ? true : undefined),
  );
  const clients: LunaClient[] = [];
  try {
    const url = `ws://127.0.0.1:${port}`;
    const models: DaemonModel[] = [];
    for (let index = 0; index < CLIENTS; index++) {
      const client = { name: `client ${index}`, version: "1" };
      const opened = await openModels({ mode: "force_daemon", url, client, graceMs: 120_000 });
      clients.push(opened);
      const { model } = await opened.registerModelByPath({ name: TINY });
      if (model !== undefined) models.push(model);
    }
    const calm = await makePictures(models, each, { steps });
    const pids = new Set<number>();
    const stop = disturb(
      async () => {
        const pid = (await clients[0]?.status())?.daemon.pid ?? 0;
        pids.add(pid);
        kill(pid);
      },
      { seed: "daemon", pauseMs, ...(countMax ? { countMax } : {}) },
    );
    const stormy = await makePictures(models, each, { steps }).finally(stop);
    return { pictures: stormy.length, kills: pids.size, largest: largest(calm, stormy) };
  } finally {
    for (const client of clients) await client.close();
    await supervisor.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

export function expectNothingLost(
  result: Readonly<{ pictures: number; kills: number; largest: number }>,
  { each }: FaultCase,
  bound = 0,
): void {
  expect(result.kills).toBeGreaterThan(0);
  expect(result.pictures).toBe(CLIENTS * each);
  expect(result.largest).toBeLessThanOrEqual(bound);
}
