/** Faults of processes that really happen: killed, stopped, short of memory, their clock moved. */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { startEngine } from "../../src/engine/index.ts";
import { LunaError } from "../../src/kernel/index.ts";
import { floatTensor } from "../../src/tensor/index.ts";
import { unetItem } from "../support/engine-items.ts";
import { expectNothingLost, killDaemon, killEngine } from "../support/fault-cases.ts";
import { makePicture } from "../support/pictures.ts";
import { ANOTHER, type RealDaemon, startRealDaemon, TINY } from "../support/real-daemon.ts";

const SHORT = { each: 2, steps: 40, pauseMs: [100, 500], killsMax: 2 } as const;
/** On a machine that is busy with other things. */
const START_MS_MAX = 180_000;
const isLinux = process.platform === "linux";

let daemon: RealDaemon;
beforeAll(async () => {
  daemon = await startRealDaemon({ "batch-rows": "4" });
}, START_MS_MAX);
afterAll(() => daemon.close());

const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error) => LunaError.from(error).code,
  );

const step = (side: number, rows = 1) => ({
  x: floatTensor([rows, 4, side, side]),
  timesteps: new Float32Array(rows),
  context: floatTensor([rows, 77, 8]),
});

test("kill -9 of the engine at random moments: nothing lost, one row a run gives the same bytes", async () => {
  expectNothingLost(await killEngine("1", SHORT), SHORT);
});

test.each(["supervisor", "hand"] as const)(
  "kill -9 of a daemon started again by %s: clients come back by themselves and lose nothing",
  async (healer) => {
    const scenario = { each: 1, steps: 80, pauseMs: [100, 200], killsMax: 1 } as const;
    expectNothingLost(await killDaemon(healer, scenario), scenario);
  },
);

test.skipIf(!isLinux).each(["in a run", "while nobody asks anything of it"])(
  "an engine that hangs %s is killed, and the run done",
  async (when) => {
    const engine = await startEngine({ device: "cpu", threads: 1, hangMs: 1500 });
    try {
      const path = join(daemon.folder, TINY);
      await engine.load(path, "unet");
      const run = () => engine.run(path, "unet", [unetItem()]);
      const expected = (await run()).outputs[0]?.tensors.get("out")?.bytes;
      process.kill((await engine.info()).pid, "SIGSTOP");
      if (when !== "in a run") await engine.info();
      const { outputs } = await run();
      expect(outputs[0]?.tensors.get("out")?.bytes).toEqual(expected);
      expect((await engine.info()).restarts).toBe(1);
    } finally {
      await engine.close();
    }
  },
);

test.skipIf(!isLinux)(
  "a request that ends the engine twice is refused, whoever sends it, and others are served",
  async () => {
    const { vae } = await (await daemon.client("deadly")).registerCheckpoint({ name: TINY });
    const { vae: same } = await (await daemon.client("same")).registerCheckpoint({ name: TINY });
    if (vae === undefined || same === undefined) throw new Error("The tiny checkpoint has a VAE.");
    const model = await daemon.model("honest");
    const undisturbed = await makePicture(model, 3, { steps: 1 });
    const count = (name: string) => daemon.events.filter(({ event }) => event === name).length;
    const latent = (value: number) => {
      return floatTensor([1, 4, 96, 96], new Float32Array(4 * 96 * 96).fill(value));
    };
    const beginMs = performance.now();
    await vae.decode(latent(0));
    const decodeMs = performance.now() - beginMs;
    const nets = count("net.opened");
    const deadly = code(vae.decode(latent(1)));
    for (const deaths of [0, 1]) {
      // With everything loaded again the run begins; it is interrupted in the middle.
      const opened = nets * (1 + deaths);
      await expect.poll(() => count("net.opened"), { timeout: 60_000 }).toBe(opened);
      await wait(decodeMs / 2);
      process.kill(await daemon.enginePid(), "SIGSEGV");
    }
    expect(await deadly).toBe("REQUEST_POISONED");
    expect(await code(same.decode(latent(1)))).toBe("REQUEST_POISONED");
    expect(await makePicture(model, 3, { steps: 1 })).toEqual(undisturbed);
    expect(await code(same.decode(latent(0)))).toBe("done");
    expect(count("engine.restarted")).toBe(2);
  },
);

/** From now on a process may take so many MiB more than it has. */
async function limitMemory(pid: number, mib: number): Promise<void> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const size = Number(/VmSize:\s+(\d+)/.exec(status)?.[1]) * 1024;
  execFileSync("prlimit", ["--pid", String(pid), `--as=${size + mib * 2 ** 20}:`]);
}

test.skipIf(!isLinux)(
  "an engine short of memory halves batches, decodes in tiles, gives idle models up, and says so at the end",
  async () => {
    const short = await startRealDaemon({ "batch-rows": "16" });
    try {
      const [beside, large] = [await short.model("beside"), await short.model("large")];
      const idle = await short.model("idle", ANOTHER);
      const idlePicture = await makePicture(idle, 1, { steps: 1 });
      const undisturbed = await makePicture(beside, 2, { steps: 2 });
      const { vae } = await (await short.client("decoder")).registerCheckpoint({ name: TINY });
      if (vae === undefined) throw new Error("The tiny checkpoint has a VAE.");
      await vae.decode(floatTensor([1, 4, 8, 8]));
      const pid = await short.enginePid();
      const refusals = () =>
        short.events.filter(({ line }) => /failed to alloc/i.test(String(line))).length;
      const isBesideUndisturbed = async () =>
        expect(await makePicture(beside, 2, { steps: 2 })).toEqual(undisturbed);

      // 16 rows of 64x64 cells in 32 channels are 8 MB a layer, 67 MB where it is eight times as wide.
      await limitMemory(pid, 48);
      const [rows] = await Promise.all([large.forward(step(64, 16)), isBesideUndisturbed()]);
      expect(rows.shape).toEqual([16, 4, 64, 64]);
      expect(refusals()).toBeGreaterThan(0);

      // 768x768 pixels in 32 channels are 75 MB a layer, of which several live at once.
      await limitMemory(pid, 150);
      const latent = floatTensor([1, 4, 96, 96]);
      const before = refusals();
      const [picture] = await Promise.all([vae.decode(latent), isBesideUndisturbed()]);
      expect(picture.shape).toEqual([1, 3, 768, 768]);
      expect(refusals()).toBeGreaterThan(before);

      // In one tile, because its client says so, it cannot be done.
      const whole = vae.decode(latent, { tile: { size: 1024, overlap: 64 } });
      expect(await code(whole)).toBe("MEMORY_EXCEEDED");
      await isBesideUndisturbed();
      expect(await makePicture(idle, 1, { steps: 1 })).toEqual(idlePicture);
      expect(short.events.some(({ event }) => event === "engine.crashed")).toBe(false);
    } finally {
      await short.close();
    }
  },
);

test("the system's clock may jump: nothing is measured by it", async () => {
  const model = await daemon.model("traveller");
  const expected = await makePicture(model, 1, { steps: 2 });
  vi.useFakeTimers({ toFake: ["Date"] });
  try {
    for (const jump of [86_400_000, -2 * 86_400_000]) {
      vi.setSystemTime(Date.now() + jump);
      expect(await makePicture(model, 1, { steps: 2 })).toEqual(expected);
    }
    const { deadlineMs, ...timing } = { deadlineMs: 20_000, ...model.steps.at(-1) };
    expect(timing.totalMs).toBeLessThan(deadlineMs);
    expect(timing.totalMs).toBeGreaterThan(0);
  } finally {
    vi.useRealTimers();
  }
});
