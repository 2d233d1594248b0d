import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { modelFolders, parseExtraModelPaths } from "./model-folders.ts";

const context = {
  directory: resolve("/conf"),
  home: resolve("/home/u"),
  environment: { BASE: resolve("/disk") },
};
const parse = (text: string) => parseExtraModelPaths(text, context);

test("several roots, each laid out as ComfyUI's models folder", () => {
  const folders = modelFolders(["/a", "/b"]);
  expect(folders.checkpoints).toEqual([resolve("/a/checkpoints"), resolve("/b/checkpoints")]);
  expect(folders.text_encoders).toEqual(
    ["/a/text_encoders", "/a/clip", "/b/text_encoders", "/b/clip"].map((path) => resolve(path)),
  );
});

test("extra_model_paths.yaml: base path, block scalars, older names, unknown kinds", () => {
  const text = `
# a comment
comfyui:
  base_path: models_base/
  checkpoints: models/checkpoints/
  clip: |
    models/text_encoders/
    models/clip/
  upscale_models: models/upscale_models/
other:
  is_default: true
  loras: ${join(context.home, "loras")}
empty:
`;
  expect(parse(text)).toEqual([
    {
      kind: "checkpoints",
      folder: resolve("/conf/models_base/models/checkpoints"),
      isDefault: false,
    },
    {
      kind: "text_encoders",
      folder: resolve("/conf/models_base/models/text_encoders"),
      isDefault: false,
    },
    { kind: "text_encoders", folder: resolve("/conf/models_base/models/clip"), isDefault: false },
    { kind: "loras", folder: resolve("/home/u/loras"), isDefault: true },
  ]);
});

test("base_path may name the home folder and variables, and is relative to the file", () => {
  const folderOf = (base: string) => parse(`a:\n  base_path: ${base}\n  vae: v`)[0]?.folder;
  expect(folderOf("~/m")).toBe(resolve("/home/u/m/v"));
  expect(folderOf("$BASE/m")).toBe(resolve("/disk/m/v"));
  expect(folderOf(`"\${BASE}"`)).toBe(resolve("/disk/v"));
  expect(folderOf("$UNKNOWN")).toBe(resolve("/conf/$UNKNOWN/v"));
  expect(parse("a:\n  vae: v")[0]?.folder).toBe(resolve("/conf/v"));
});

test("a default folder comes first, also when it is known; nothing comes twice", () => {
  const extra = parse(`a:\n  is_default: true\n  loras: /b/loras\nb:\n  loras: /a/loras`);
  expect(modelFolders(["/a", "/b"], extra).loras).toEqual([
    resolve("/b/loras"),
    resolve("/a/loras"),
  ]);
});

test.each([
  "- a",
  "a: 1",
  "a:\n  vae: 3",
  "a:\n  base_path: [x]\n  vae: v",
  "a: [",
  "{".repeat(50),
])("%j is one clear error", (text) => {
  expect(() => parse(text)).toThrowError(expect.objectContaining({ code: "CONFIG_INVALID" }));
});
