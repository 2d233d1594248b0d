/** Faults that really happen: processes killed and stopped, files changed under a running daemon. */
import { execFileSync } from "node:child_process";
import { readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { startEngine } from "../../src/engine/index.ts";
import { LunaError } from "../../src/kernel/index.ts";
import { floatTensor, fromFloat, serializeSafetensors } from "../../src/tensor/index.ts";
import { unetItem } from "../support/engine-items.ts";
import { expectNothingLost, killDaemon, killEngine } from "../support/fault-cases.ts";
import { makePicture } from "../support/pictures.ts";
import { type RealDaemon, startRealDaemon, TINY } from "../support/real-daemon.ts";
import { seededValues } from "../support/seeded.ts";
import { tinyTensors } from "../support/tiny-checkpoint.ts";

/** Longer than a fingerprint of a file, and a listing without it, are believed. */
const NOTICE_MS = 1100;
const SHORT = { each: 2, steps: 40, pauseMs: [100, 500], killsMax: 2 } as const;
const ANOTHER = "checkpoints/another.safetensors";
const isLinux = process.platform === "linux";

let daemon: RealDaemon;
beforeAll(async () => {
  daemon = await startRealDaemon({ "batch-rows": "4" });
});
afterAll(() => daemon.close());

const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "done",
    (error) => LunaError.from(error).code,
  );

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

test("a checkpoint that is cut, deleted or replaced under the daemon hurts only those who use it", async () => {
  const path = join(daemon.folder, ANOTHER);
  const [other, model] = [await daemon.model("other"), await daemon.model("user", ANOTHER)];
  const picture = () => makePicture(model, 1, { steps: 1 });
  const undisturbed = await makePicture(other, 1, { steps: 1 });
  const first = await picture();
  const whole = await readFile(path);
  await truncate(path, 4096);
  await wait(NOTICE_MS);
  expect(["FILE_UNREADABLE", "TENSOR_MALFORMED", "CHECKPOINT_UNSUPPORTED"]).toContain(
    await code(picture()),
  );
  await rm(path);
  await wait(NOTICE_MS);
  expect(await code(picture())).toBe("MODEL_UNKNOWN");
  await writeFile(path, whole);
  await wait(NOTICE_MS);
  expect(await picture()).toEqual(first);
  await writeFile(`${path}.new`, serializeSafetensors(tinyTensors({ dtype: "F32", seed: 3 })));
  await rename(`${path}.new`, path);
  await wait(NOTICE_MS);
  expect(await picture()).not.toEqual(first);
  expect(await makePicture(other, 1, { steps: 1 })).toEqual(undisturbed);
});

test("a LoRA that is replaced while in use is the new one at the next picture", async () => {
  const write = (scale: number) => {
    const name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q";
    const factor = (key: string, shape: number[]) =>
      fromFloat({ shape, data: seededValues(key, 32 * 2, scale) });
    const tensors = new Map([
      [`${name}.lora_down.weight`, factor("down", [2, 32])],
      [`${name}.lora_up.weight`, factor("up", [32, 2])],
    ]);
    return writeFile(join(daemon.folder, "loras/a.safetensors"), serializeSafetensors(tensors));
  };
  const model = await daemon.model("painter");
  const picture = () => makePicture(model, 1, { steps: 1 });
  const bare = await picture();
  await write(1);
  model.addLora("a.safetensors", 1);
  const first = await picture();
  expect(first).not.toEqual(bare);
  await write(2);
  await wait(NOTICE_MS);
  const second = await picture();
  expect(second).not.toEqual(first);
  await write(1);
  await wait(NOTICE_MS);
  expect(await picture()).toEqual(first);
  model.clearLoras();
  expect(await picture()).toEqual(bare);
});

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
