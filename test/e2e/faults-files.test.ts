/** Files that are cut, deleted, overwritten or replaced under a running daemon, and a full disk. */
import { execFileSync, spawn } from "node:child_process";
import { open, readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as wait } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openModels } from "../../src/client/index.ts";
import { LunaError } from "../../src/kernel/index.ts";
import { serializeSafetensors } from "../../src/tensor/index.ts";
import { makePicture } from "../support/pictures.ts";
import {
  ANOTHER,
  type RealDaemon,
  startRealDaemon,
  TINY,
  tinyLora,
} from "../support/real-daemon.ts";
import { tinyTensors } from "../support/tiny-checkpoint.ts";

/** Longer than a fingerprint of a file, and a listing without it, are believed. */
const NOTICE_MS = 1100;

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
const UNREADABLE = ["FILE_UNREADABLE", "TENSOR_MALFORMED", "CHECKPOINT_UNSUPPORTED"];

test("a checkpoint that is cut, deleted or replaced under the daemon hurts only those who use it", async () => {
  const path = join(daemon.folder, ANOTHER);
  const [other, model] = [await daemon.model("other"), await daemon.model("user", ANOTHER)];
  const picture = () => makePicture(model, 1, { steps: 1 });
  const undisturbed = await makePicture(other, 1, { steps: 1 });
  const beside = async () => expect(await makePicture(other, 1, { steps: 1 })).toEqual(undisturbed);
  const first = await picture();
  const whole = await readFile(path);
  await truncate(path, 4096);
  // At once, the mapped pages are gone and reading them ends the engine; later the size tells.
  const [atOnce] = await Promise.all([code(picture()), beside()]);
  expect(UNREADABLE).toContain(atOnce);
  await wait(NOTICE_MS);
  expect(UNREADABLE).toContain(await code(picture()));
  await rm(path);
  await wait(NOTICE_MS);
  expect(await code(picture())).toBe("MODEL_UNKNOWN");
  await writeFile(path, whole);
  await wait(NOTICE_MS);
  expect(await picture()).toEqual(first);
  const second = serializeSafetensors(tinyTensors({ dtype: "F32", seed: 3 }));
  await writeFile(`${path}.new`, second);
  await rename(`${path}.new`, path);
  await wait(NOTICE_MS);
  const replaced = await picture();
  expect(replaced).not.toEqual(first);
  // The same file with other bytes in it, as `cp` does: the mapped weights change under the engine.
  const file = await open(path, "r+");
  await file.write(whole, 0, whole.length, 0);
  await file.close();
  await wait(NOTICE_MS);
  expect(await picture()).toEqual(first);
  await beside();
});

test("a LoRA that is replaced while in use is the new one at the next picture", async () => {
  const path = join(daemon.folder, "loras/a.safetensors");
  const write = (scale: number) => writeFile(path, tinyLora(scale));
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
  // A writer that is half done is one clear error, and no more once it is done.
  await truncate(path, 100);
  await wait(NOTICE_MS);
  expect(await code(picture())).toBe("LORA_MALFORMED");
  await write(1);
  await wait(NOTICE_MS);
  expect(await picture()).toEqual(first);
  // Replaced again and again during steps: each step has one version or the other.
  let isOver = false;
  const storm = (async () => {
    for (let n = 0; !isOver; n++) {
      await writeFile(`${path}.new`, tinyLora(1 + (n % 3)));
      await rename(`${path}.new`, path);
      await wait(20);
    }
  })();
  expect(await code(makePicture(model, 1, { steps: 60 }))).toBe("done");
  isOver = true;
  await storm;
  model.clearLoras();
  expect(await picture()).toEqual(bare);
});

/** A disk of its own needs namespaces of Linux that its user may make. */
function hasNamespaces(): boolean {
  try {
    execFileSync("unshare", ["-rm", "true"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

test.skipIf(!hasNamespaces())(
  "on a full disk models are served from memory, an upload is refused, and taken when there is room",
  async () => {
    // Models, temporary files and uploads on one small disk.
    const disk = join(daemon.folder, "disk");
    const main = join(import.meta.dirname, "../../src/cli/main.ts");
    const script =
      'mkdir "$1" && mount -t tmpfs -o size=24m tmpfs "$1" && mkdir "$1/models" && cp -r "$2" "$1/models" && ' +
      'exec env TMPDIR="$1" "$3" --import tsx "$4" serve --port 0 --socket off --device cpu ' +
      '--threads 1 --models "$1/models"';
    const args = [disk, join(daemon.folder, "checkpoints"), process.execPath, main];
    const child = spawn("unshare", ["-rm", "sh", "-c", script, "sh", ...args], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      const port = await new Promise((resolve) => {
        createInterface({ input: child.stdout }).on("line", (line) => {
          const found = /running on localhost:(\d+)/.exec(line)?.[1];
          if (found !== undefined) resolve(found);
        });
      });
      const url = `ws://127.0.0.1:${port}`;
      const identity = { name: "full", version: "1" };
      const client = await openModels({ mode: "force_daemon", url, client: identity });
      const { pid } = (await client.status()).daemon;
      // The same disk, as this process sees it.
      const filler = join(`/proc/${pid}/root`, disk, "filler");
      expect(await code(writeFile(filler, new Uint8Array(64 * 2 ** 20)))).toBe("DISK_FULL");
      const { model } = await client.registerModelByPath({ name: TINY });
      const elsewhere = await daemon.model("elsewhere");
      const picture = (one = model) => one && makePicture(one, 1, { steps: 1 });
      expect(await picture()).toEqual(await picture(elsewhere));
      const weights = tinyTensors({ dtype: "F32", seed: 1 });
      expect(await code(client.registerModel(weights))).toBe("DISK_FULL");
      expect(await picture()).toEqual(await picture(elsewhere));
      await rm(filler);
      expect(await picture((await client.registerModel(weights)).model)).toEqual(await picture());
      await client.close();
    } finally {
      child.kill("SIGTERM");
    }
  },
);
