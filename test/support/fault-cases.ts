/** What may befall a daemon while four clients make pictures; short in npm test, long on demand. */

import { rm } from "node:fs/promises";
import { createServer } from "node:net";
import { setTimeout as wait } from "node:timers/promises";
import { expect } from "vitest";
import { type LunaProcess, startAndAwait } from "../../src/cli/child-process.ts";
import { type DaemonModel, type LunaClient, openModels } from "../../src/client/index.ts";
import { disturb, makePictures } from "./pictures.ts";
import { startRealDaemon, TINY, tinyFactors, tinyModels } from "./real-daemon.ts";

const CLIENTS = 4;

export type FaultCase = Readonly<{
  /** Pictures of each client, and their steps. */
  each: number;
  steps: number;
  /** From the moment the last death was healed to the next kill. */
  pauseMs: readonly [number, number];
  killsMax?: number;
}>;

type Outcome = Readonly<{ pictures: number; kills: number; largest: number }>;

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
export async function killEngine(batchRows: string, scenario: FaultCase): Promise<Outcome> {
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

/** A daemon as a process of its own, on one port whoever starts it. */
class Home {
  readonly url: string;
  readonly #flags: readonly string[];
  #process: LunaProcess | undefined;

  constructor(port: number, folder: string) {
    this.url = `ws://127.0.0.1:${port}`;
    const own = ["--device", "cpu", "--threads", "1", "--batch-rows", "1", "--socket", "off"];
    this.#flags = ["serve", "--port", String(port), "--models", folder, ...own];
  }

  async start(extra: readonly string[] = []): Promise<void> {
    const { process } = await startAndAwait([...this.#flags, ...extra], (line) =>
      line.includes("server running") ? true : undefined,
    );
    this.#process = process;
  }

  async stop(): Promise<void> {
    await this.#process?.stop();
  }
}

/** The model of a new client, with a LoRA that it has sent. */
async function openPainter(url: string, name: string): Promise<[LunaClient, DaemonModel]> {
  const identity = { name, version: "1" };
  const client = await openModels({ mode: "force_daemon", url, client: identity });
  const { model } = await client.registerModelByPath({ name: TINY });
  if (model === undefined) throw new Error("The tiny checkpoint has a UNet.");
  model.addLora(await client.putLora(tinyFactors(name)), 0.7);
  return [client, model];
}

/**
 * kill -9 of a daemon that is started again by its supervisor or by hand: clients come back within
 * their own time for that, send again what the new one does not know, and no picture is lost.
 */
export async function killDaemon(
  healer: "supervisor" | "hand",
  scenario: FaultCase,
): Promise<Outcome> {
  const { each, steps, pauseMs, killsMax: countMax } = scenario;
  const folder = await tinyModels();
  const home = new Home(await freePort(), folder);
  await home.start(healer === "supervisor" ? ["--supervise"] : []);
  const painters: [LunaClient, DaemonModel][] = [];
  let healing: Promise<void> | undefined;
  try {
    for (let index = 0; index < CLIENTS; index++) {
      painters.push(await openPainter(home.url, `client ${index}`));
    }
    const models = painters.map(([, model]) => model);
    const status = () => painters[0]?.[0].status();
    const calm = await makePictures(models, each, { steps });
    const held = (await status())?.tensorStore.entries ?? 0;
    const pids = new Set<number>();
    const killOnce = async () => {
      const pid = (await status())?.daemon.pid ?? 0;
      pids.add(pid);
      kill(pid);
      if (healer === "hand") await home.start();
    };
    const options = { seed: "daemon", pauseMs, ...(countMax ? { countMax } : {}) };
    const stop = disturb(() => {
      healing = killOnce();
      return healing;
    }, options);
    const stormy = await makePictures(models, each, { steps }).finally(stop);
    await healing;
    // Each client's LoRA and context are there again, or there was no death to survive.
    expect(held).toBeGreaterThanOrEqual(2 * CLIENTS);
    expect((await status())?.tensorStore.entries).toBeGreaterThanOrEqual(2 * CLIENTS);
    return { pictures: stormy.length, kills: pids.size, largest: largest(calm, stormy) };
  } finally {
    for (const [client] of painters) await client.close();
    await home.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

export function expectNothingLost(
  result: Outcome,
  { each }: Pick<FaultCase, "each">,
  bound = 0,
): void {
  expect(result.kills).toBeGreaterThan(0);
  expect(result.pictures).toBe(CLIENTS * each);
  expect(result.largest).toBeLessThanOrEqual(bound);
}
