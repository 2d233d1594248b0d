import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { afterRelease, cleanStaleFolders, placeWeights, readRange } from "./model-folder.ts";

let folder: string;
let file: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "luna-place-"));
  await mkdir(join(folder, "temporary"));
  await mkdir(join(folder, "models"));
  file = join(folder, "models", "a.safetensors");
  await writeFile(file, "weights of a");
});
afterEach(() => rm(folder, { recursive: true, force: true }));

test("weights are linked in the temporary folder, the target of a symbolic link too", async () => {
  const alias = join(folder, "models", "alias.safetensors");
  await symlink(file, alias);
  const place = await placeWeights(alias, join(folder, "temporary"));
  if (place.type !== "linked") throw new Error("A hard link works here.");
  expect(place.where).toBe("temporary");
  expect(await readFile(join(place.folder, "weights"), "utf8")).toBe("weights of a");
  await afterRelease(place);
  expect(await readdir(join(folder, "temporary"))).toEqual([]);
});

test("where the temporary folder does not serve, a hidden folder beside the file does", async () => {
  const place = await placeWeights(file, join(folder, "none"));
  if (place.type !== "linked") throw new Error("A hard link works here.");
  expect(place.where).toBe("beside");
  expect(
    (await readdir(join(folder, "models"))).filter((name) => name.startsWith(".")),
  ).toHaveLength(1);
  await afterRelease(place);
  expect(await readdir(join(folder, "models"))).toEqual(["a.safetensors"]);
});

test("folders of engines that no longer live are removed, others stay", async () => {
  const parent = join(folder, "temporary");
  const dead = 2 ** 30; // Above any process id.
  for (const name of [
    `luna-engine-${dead}-x`,
    `.luna-engine-${dead}-y`,
    `luna-engine-${process.pid}-z`,
  ]) {
    await mkdir(join(parent, name));
  }
  await cleanStaleFolders(parent);
  expect(await readdir(parent)).toEqual([`luna-engine-${process.pid}-z`]);
});

test("a range is read whole or not at all", async () => {
  expect(Buffer.from(await readRange(file, 8, 12)).toString()).toBe("of a");
  await expect(readRange(file, 8, 13)).rejects.toMatchObject({ code: "FILE_UNREADABLE" });
  await expect(placeWeights(join(folder, "none"))).rejects.toMatchObject({
    code: "FILE_UNREADABLE",
  });
});
