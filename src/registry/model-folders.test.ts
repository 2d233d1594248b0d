import { isAbsolute, join, resolve } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { stringify } from "yaml";
import { LunaError } from "../kernel/index.ts";
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

test("any text and any YAML is absolute folders or CONFIG_INVALID", () => {
  const keys = fc.constantFrom("base_path", "is_default", "loras", "clip", "vae", "other");
  const value = fc.oneof(fc.string(), fc.boolean(), fc.constant("a\nb\n"), fc.array(fc.string()));
  const section = fc.oneof(fc.dictionary(keys, value), fc.anything());
  const sections = fc.dictionary(fc.string({ maxLength: 3 }), section).map((root) => {
    try {
      return stringify(root);
    } catch {
      return "a: {b: c}"; // What YAML has no words for.
    }
  });
  const property = fc.property(fc.oneof(sections, fc.string()), (text) => {
    try {
      expect(parse(text).every(({ folder }) => isAbsolute(folder))).toBe(true);
    } catch (error) {
      if (!LunaError.isCode(error, "CONFIG_INVALID")) throw error;
    }
  });
  fc.assert(property, { numRuns: 100 });
});

test("aliases that multiply are one clear error", () => {
  const bomb = ["a: &a [x]", ...[..."bcdefghij"].map((name, at) => bombLine(name, at))].join("\n");
  expect(() => parse(bomb)).toThrowError(expect.objectContaining({ code: "CONFIG_INVALID" }));
});

function bombLine(name: string, at: number): string {
  const before = String.fromCharCode("a".charCodeAt(0) + at);
  return `${name}: &${name} [${Array(9).fill(`*${before}`).join(", ")}]`;
}
