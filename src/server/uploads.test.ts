import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { fromFloat, parseSafetensors, type Tensor } from "../tensor/index.ts";
import { Upload } from "./uploads.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "luna-upload-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const weights = (names: string[]): Map<string, Tensor> =>
  new Map(
    names.map((name, at) => [name, fromFloat({ shape: [3], data: new Float32Array(3).fill(at) })]),
  );

test("frames become one safetensors file named by its content", async () => {
  const upload = await Upload.open(folder);
  await upload.add(weights(["a", "b"]));
  await upload.add(weights(["c"]));
  const path = await upload.finish();
  const { tensors } = parseSafetensors(new Uint8Array(await readFile(path)));
  expect(tensors).toEqual(new Map([...weights(["a", "b"]), ...weights(["c"])]));
  const again = await Upload.open(folder);
  await again.add(weights(["c"]));
  await again.add(weights(["a", "b"]));
  expect(await again.finish()).toBe(path);
  expect(await readdir(folder)).toHaveLength(1);
});

test("what a killed daemon had begun is removed, what another daemon writes is not", async () => {
  const names = [".old.part", ".new.part", "old.safetensors"];
  for (const name of names) await writeFile(join(folder, name), "x");
  const longAgo = new Date(Date.now() - 2 * 3_600_000);
  for (const name of [".old.part", "old.safetensors"]) {
    await utimes(join(folder, name), longAgo, longAgo);
  }
  await (await Upload.open(folder)).abandon();
  expect((await readdir(folder)).sort()).toEqual([".new.part", "old.safetensors"]);
});

test("an abandoned upload leaves nothing, limits and doubles are refused", async () => {
  const upload = await Upload.open(folder, { bytesMax: 30 });
  await upload.add(weights(["a", "b"]));
  await expect(upload.add(weights(["c"]))).rejects.toMatchObject({ code: "LIMIT_EXCEEDED" });
  await expect(upload.add(weights(["a"]))).rejects.toMatchObject({ code: "REQUEST_INVALID" });
  await upload.abandon();
  expect(await readdir(folder)).toEqual([]);
});

test("a full folder takes no more uploads, an empty upload is none", async () => {
  const upload = await Upload.open(folder);
  await expect(upload.finish()).rejects.toMatchObject({ code: "REQUEST_INVALID" });
  await upload.add(weights(["a"]));
  await upload.finish();
  await expect(Upload.open(folder, { folderBytesMax: 100 })).rejects.toMatchObject({
    code: "LIMIT_EXCEEDED",
  });
});

test.skipIf(process.platform === "win32")("the folder is the user's own", async () => {
  const own = join(folder, "uploads", "diffusion_models");
  await (await Upload.open(own)).abandon();
  for (const path of [own, join(own, "..")]) expect((await stat(path)).mode & 0o077).toBe(0);
});
