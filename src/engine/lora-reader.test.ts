import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { linearTarget } from "../../test/support/lora-models.ts";
import { seededValues } from "../../test/support/seeded.ts";
import { tinyUNetConfig } from "../../test/support/tiny-checkpoint.ts";
import type { LoraModel } from "../lora/index.ts";
import { fromFloat, serializeSafetensors, type Tensor } from "../tensor/index.ts";
import { type LoraReader, readHere, startLoraReader } from "./lora-reader.ts";

const targets = ["a", "b", "c"].map((name) => linearTarget(name, 12, 20));
const model = {
  key: "model",
  model: (): LoraModel => ({ unet: { config: tinyUNetConfig(), targets }, text: new Map() }),
};

let folder: string;
let path: string;
let read: LoraReader;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "luna-reader-"));
  path = join(folder, "l.safetensors");
  const tensors = new Map<string, Tensor>();
  for (const [name, dtype] of [
    ["a", "F32"],
    ["b", "F16"],
    ["c", "BF16"],
  ] as const) {
    const add = (part: string, shape: readonly number[]) =>
      tensors.set(
        `diffusion_model.${name}.${part}.weight`,
        fromFloat(
          { shape, data: seededValues(name + part, 60 * (shape[0] === 3 ? 1 : 0.6), 1) },
          dtype,
        ),
      );
    add("lora_down", [3, 20]);
    add("lora_up", [12, 3]);
  }
  tensors.set("other.lora_up.weight", fromFloat({ shape: [1], data: Float32Array.of(1) }));
  await writeFile(path, serializeSafetensors(tensors));
  read = startLoraReader();
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test("threads read what the thread that asks would read", async () => {
  const here = await readHere(path, model);
  expect(here?.unet.size).toBe(3);
  for (let turn = 0; turn < 2; turn++) {
    const there = await read(path, model);
    expect(new Map([...(there?.unet ?? [])].sort())).toEqual(
      new Map([...(here?.unet ?? [])].sort()),
    );
    expect({ ...there, unet: undefined }).toEqual({ ...here, unet: undefined });
  }
});

test("a file that is not there, or is broken, is told as it is", async () => {
  expect(await read(join(folder, "none"), model)).toBeUndefined();
  const broken = join(folder, "broken.safetensors");
  await writeFile(
    broken,
    serializeSafetensors(
      new Map([["x.lora_up.weight", fromFloat({ shape: [1], data: Float32Array.of(1) })]]),
    ),
  );
  await expect(read(broken, model)).rejects.toMatchObject({ code: "LORA_UNSUPPORTED" });
  await truncate(broken, 12);
  await expect(read(broken, model)).rejects.toMatchObject({ code: "TENSOR_MALFORMED" });
});
