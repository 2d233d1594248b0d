import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Checkpoint, ComponentName } from "../checkpoint/index.ts";
import { modelFolders } from "./model-folders.ts";
import { ModelRegistry } from "./model-registry.ts";

const CHECKPOINT: Checkpoint = {
  ...{
    prediction: "eps",
    isZeroTerminalSnr: false,
    textEncoders: [],
    latentScale: 1,
    dtype: "F32",
  },
  vae: {
    weights: new Map([["decoder.conv_in.weight", { dtype: "F32", shape: [5], begin: 0, end: 20 }]]),
    config: {
      ...{ kind: "kl", latentChannels: 4, imageChannels: 3, downscale: 8, widths: [32] },
      ...{ resBlocks: 1, hasEncoder: false, hasDecoder: true },
    },
  },
};

let root: string;
let headers: string[];
let loads: string[];
let registry: ModelRegistry;
let laterMs: number;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "luna-registry-"));
  for (const kind of ["vae", "checkpoints", "loras"]) await mkdir(join(root, kind));
  await writeFile(join(root, "vae/v.safetensors"), "1");
  [headers, loads] = [[], []];
  laterMs = 0;
  registry = new ModelRegistry({
    folders: modelFolders([root]),
    loader: {
      load: async (path: string, component: ComponentName) => {
        loads.push(`${component} ${path}`);
        return { bytes: 20, ms: 1 };
      },
      unload: async () => undefined,
    },
    openCheckpoint: async (path) => {
      headers.push(path);
      return CHECKPOINT;
    },
    bytesMax: 100,
    nowMs: () => headers.length * 10_000 + laterMs,
  });
});
afterEach(() => rm(root, { recursive: true, force: true }));

test("a model is found by id, by name and by path, and its header is read once", async () => {
  const path = join(root, "vae/v.safetensors");
  for (const reference of ["vae/v.safetensors", "v", "vae\\v.safetensors", path]) {
    expect((await registry.describe(reference)).file.id).toBe("vae/v.safetensors");
  }
  expect(headers).toHaveLength(1);
  await expect(registry.describe("w")).rejects.toMatchObject({ code: "MODEL_UNKNOWN" });
  await expect(registry.describe("w.ckpt")).rejects.toThrow(/only .safetensors files are read/);
  await expect(registry.describe("/etc/hosts")).rejects.toMatchObject({ code: "PATH_REFUSED" });
  await expect(registry.describe("../v")).rejects.toMatchObject({ code: "PATH_REFUSED" });
});

test("an id means its own file, whatever a folder of another kind is called", async () => {
  await mkdir(join(root, "checkpoints/vae"));
  await writeFile(join(root, "checkpoints/vae/v.safetensors"), "1");
  expect((await registry.resolve("vae/v.safetensors")).id).toBe("vae/v.safetensors");
  expect((await registry.resolve("checkpoints/vae/v")).id).toBe("checkpoints/vae/v.safetensors");
});

test("a net is loaded on first use, under two names only once, and a net there is none of is named", async () => {
  await symlink(join(root, "vae/v.safetensors"), join(root, "checkpoints/alias.safetensors"));
  const first = await registry.acquire("v", "vae-decoder");
  const second = await registry.acquire("checkpoints/alias.safetensors", "vae-decoder");
  expect(loads).toEqual([`vae-decoder ${first.path}`]);
  expect(registry.loaded()).toMatchObject([{ users: 2, bytes: 20, state: "ready" }]);
  first.release();
  first.release();
  second.release();
  expect(registry.loaded()).toMatchObject([{ users: 0 }]);
  await expect(registry.acquire("v", "unet")).rejects.toMatchObject({
    code: "MODEL_UNKNOWN",
    message: expect.stringContaining("it holds vae-decoder"),
  });
});

test("a replaced file is read and loaded again", async () => {
  (await registry.acquire("v", "vae-decoder")).release();
  await writeFile(join(root, "vae/v.safetensors"), "another");
  (await registry.acquire("v", "vae-decoder")).release();
  expect([headers.length, loads.length]).toEqual([2, 2]);
});

test("preload, pin, list, unload", async () => {
  await registry.preload("v");
  await registry.pin("v");
  expect(await registry.list(["vae"])).toMatchObject([
    { id: "vae/v.safetensors", bytes: 1, isPinned: true, nets: [{ component: "vae-decoder" }] },
  ]);
  await registry.unpin("v");
  await registry.unload("v");
  expect(await registry.list(["vae"])).toMatchObject([{ isPinned: false, nets: [] }]);
});

test("a LoRA is a name, a path and a key that changes with the file", async () => {
  await writeFile(join(root, "loras/l.safetensors"), "1");
  const lora = await registry.resolveLora("l");
  expect(lora?.name).toBe("l.safetensors");
  await writeFile(join(root, "loras/l.safetensors"), "22");
  // The disk is not asked at every step.
  expect((await registry.resolveLora("l"))?.key).toBe(lora?.key);
  laterMs += 500;
  expect((await registry.resolveLora("l"))?.key).not.toBe(lora?.key);
  expect(await registry.resolveLora("none")).toBeUndefined();
});
