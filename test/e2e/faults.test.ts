/** Faults that really happen: processes killed and stopped, memory short, a clock that jumps. */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { startEngine } from "../../src/engine/index.ts";
import { floatTensor } from "../../src/tensor/index.ts";
import { unetItem } from "../support/engine-items.ts";
import { expectNothingLost, killDaemon, killEngine } from "../support/fault-cases.ts";
import { makePicture } from "../support/pictures.ts";
import { type RealDaemon, startRealDaemon, TINY } from "../support/real-daemon.ts";

const SHORT = { each: 2, steps: 40, pauseMs: [100, 500], killsMax: 2 } as const;
const isLinux = process.platform === "linux";

let daemon: RealDaemon;
beforeAll(async () => {
  daemon = await startRealDaemon({ "batch-rows": "4" });
});
afterAll(() => daemon.close());

test("kill -9 of the engine at random moments: nothing lost, one row a run gives the same bytes", async () => {
  expectNothingLost(await killEngine("1", SHORT), SHORT);
});

test("kill -9 of a supervised daemon: clients come back by themselves and lose nothing", async () => {
  const scenario = { each: 1, steps: 80, pauseMs: [100, 200], killsMax: 1 } as const;
  expectNothingLost(await killDaemon(scenario), scenario);
});

test.skipIf(!isLinux)("an engine that hangs is killed, and its run done again", async () => {
  const engine = await startEngine({ device: "cpu", threads: 1, hangMs: 1500 });
  try {
    const path = join(daemon.folder, TINY);
    await engine.load(path, "unet");
    const run = () => engine.run(path, "unet", [unetItem()]);
    const expected = (await run()).outputs[0]?.tensors.get("out")?.bytes;
    process.kill((await engine.info()).pid, "SIGSTOP");
    const { outputs } = await run();
    expect(outputs[0]?.tensors.get("out")?.bytes).toEqual(expected);
    expect((await engine.info()).restarts).toBe(1);
  } finally {
    await engine.close();
  }
});

test.skipIf(!isLinux)(
  "an engine without memory decodes in tiles, and the others go on",
  async () => {
    const other = await daemon.model("small");
    const undisturbed = await makePicture(other, 2, { steps: 2 });
    const { vae } = await (await daemon.client("large")).registerCheckpoint({ name: TINY });
    const latent = (side: number) => floatTensor([1, 4, side, side]);
    await vae?.decode(latent(8));
    const pid = await daemon.enginePid();
    const size = Number(/VmSize:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1]);
    // 768x768 pixels in 32 channels are 75 MB a layer, of which several live at once.
    execFileSync("prlimit", ["--pid", String(pid), `--as=${size * 1024 + 150 * 2 ** 20}`]);
    const large = vae?.decode(latent(96));
    const beside = makePicture(other, 2, { steps: 2 });
    expect((await large)?.shape).toEqual([1, 3, 768, 768]);
    expect(await beside).toEqual(undisturbed);
    expect(daemon.events.some(({ line }) => /failed to allocate/i.test(String(line)))).toBe(true);
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
