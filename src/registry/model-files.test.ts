import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ModelFiles, matchName, parseModelName } from "./model-files.ts";
import { modelFolders } from "./model-folders.ts";

let root: string;
let nowMs = 0;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "luna-files-"));
  nowMs = 0;
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function put(...names: string[]): Promise<void> {
  for (const name of names) {
    await mkdir(join(root, name, ".."), { recursive: true });
    await writeFile(join(root, name), "x");
  }
}
const files = () => new ModelFiles(modelFolders([join(root, "models")]), () => nowMs);
const refused = expect.objectContaining({ code: "PATH_REFUSED" });

test("safetensors files of all subfolders are listed, hidden folders and other files are not", async () => {
  await put("models/loras/b.safetensors", "models/loras/sub/deep/a.SafeTensors");
  await put("models/loras/readme.txt", "models/loras/.luna-engine-1-x/weights.safetensors");
  const listed = await files().list("loras");
  expect(listed.map(({ id }) => id)).toEqual([
    "loras/b.safetensors",
    "loras/sub/deep/a.SafeTensors",
  ]);
});

test("links are followed, circles end", async () => {
  await put("elsewhere/x.safetensors", "models/vae/own.safetensors");
  await symlink(join(root, "elsewhere"), join(root, "models/vae/linked"));
  await symlink(join(root, "elsewhere/x.safetensors"), join(root, "models/vae/one.safetensors"));
  await symlink(join(root, "models/vae"), join(root, "models/vae/circle"));
  const listed = await files().list("vae");
  expect(listed.map(({ name }) => name)).toEqual([
    "linked/x.safetensors",
    "one.safetensors",
    "own.safetensors",
  ]);
});

test("a name is found with or without extension, in Windows' spelling, and alone in a subfolder", async () => {
  await put("models/loras/Style/Blue Print.safetensors", "models/loras/pixel.safetensors");
  const found = async (name: string) => (await files().find("loras", name))?.name;
  expect(await found("pixel")).toBe("pixel.safetensors");
  expect(await found("PIXEL.safetensors")).toBe("pixel.safetensors");
  expect(await found("style\\blue print")).toBe("Style/Blue Print.safetensors");
  expect(await found("Blue Print")).toBe("Style/Blue Print.safetensors");
  expect(await found("other")).toBeUndefined();
});

test("what would fit two files fits none, unless one of them exactly", () => {
  expect(matchName(["A.safetensors", "a.safetensors"], "a")).toBe("a.safetensors");
  expect(matchName(["A.safetensors", "a.safetensors"], "A.SAFETENSORS")).toBeUndefined();
  expect(matchName(["x/a.safetensors", "y/a.safetensors"], "a")).toBeUndefined();
});

test("a file found by its path is found by its name at once", async () => {
  const known = files();
  await put("models/loras/a.safetensors");
  expect((await known.find("loras", "a"))?.name).toBe("a.safetensors");
  await put("models/loras/b.safetensors");
  await known.findPath(join(root, "models/loras/b.safetensors"));
  expect((await known.find("loras", "b"))?.name).toBe("b.safetensors");
});

test("new files are seen after a moment, removed ones at once", async () => {
  const known = files();
  await put("models/loras/a.safetensors");
  expect((await known.find("loras", "a"))?.name).toBe("a.safetensors");
  await put("models/loras/b.safetensors");
  expect(await known.find("loras", "b")).toBeUndefined();
  nowMs += 1000;
  expect((await known.find("loras", "b"))?.name).toBe("b.safetensors");
  await rm(join(root, "models/loras/a.safetensors"));
  expect(await known.find("loras", "a")).toBeUndefined();
});

test.each(["../x", "a/../../x", "/etc/passwd", "C:\\x", "\\\\host\\x", "", "a\0b", "..", "."])(
  "%j leaves no model folder",
  (name) => {
    expect(() => parseModelName(name)).toThrowError(refused);
  },
);

test("whatever a name is made of, it stays below its folder or is refused", () => {
  const part = fc.constantFrom("..", ".", "", "a", "b.safetensors", "\\", "/", "C:", "\0");
  const property = fc.property(
    fc.array(part, { maxLength: 6 }),
    fc.constantFrom("/", "\\"),
    (parts, separator) => {
      let name: string;
      try {
        name = parseModelName(parts.join(separator));
      } catch (error) {
        expect(error).toEqual(refused);
        return;
      }
      expect(join("/root/folder", name).startsWith("/root/folder/")).toBe(true);
    },
  );
  fc.assert(property);
});

test("an absolute path must lie below a model folder", async () => {
  await put("models/vae/v.safetensors", "models/secret.safetensors");
  const inside = await files().findPath(join(root, "models/vae/v.safetensors"));
  expect(inside.id).toBe("vae/v.safetensors");
  for (const path of [
    "models/secret.safetensors",
    "models/vae/../secret.safetensors",
    "models/vae",
  ]) {
    await expect(files().findPath(join(root, path))).rejects.toEqual(refused);
  }
});
