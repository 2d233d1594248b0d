import { lstat, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { VERSION } from "../version.ts";
import { installPack, packVersion } from "./comfyui.ts";

let root = "";
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "luna-comfyui-"));
  await mkdir(join(root, "comfy"));
  await mkdir(join(root, "custom_nodes"));
  await writeFile(join(root, "main.py"), "");
  await writeFile(join(root, "comfyui_version.py"), '__version__ = "0.18.1"\n');
});
afterEach(() => rm(root, { recursive: true, force: true }));

test("the pack is linked, and a link that is there is replaced", async () => {
  for (let time = 0; time < 2; time++) {
    const { target, how, comfyUi } = await installPack(root, false);
    expect([how, comfyUi, packVersion(target)]).toEqual(["linked", "0.18.1", VERSION]);
    expect((await lstat(target)).isSymbolicLink()).toBe(true);
  }
});

test("a dangling link is replaced, a copy holds no compiled files", async () => {
  await symlink(join(root, "nowhere"), join(root, "custom_nodes", "luna-daemon"));
  const { target, how } = await installPack(root, true);
  expect([how, packVersion(target)]).toEqual(["copied", VERSION]);
  expect(await readFile(join(target, "__init__.py"), "utf8")).toContain("NODE_CLASS_MAPPINGS");
});

test("another pack of that name and a folder that is no ComfyUI are left alone", async () => {
  await mkdir(join(root, "custom_nodes", "luna-daemon"));
  await expect(installPack(root, false)).rejects.toThrow(/not Luna's node pack/);
  await expect(installPack(join(root, "comfy"), false)).rejects.toThrow(/no main.py/);
});
