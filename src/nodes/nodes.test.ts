/** Against ComfyUI: goldens of test/reference/nodes.py. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { FakeServices } from "../../test/support/fake-models.ts";
import { LunaError } from "../kernel/index.ts";
import { type FloatTensor, floatTensor } from "../tensor/index.ts";
import { NODE_DEFINITIONS, type NodeContext, readPngText } from "./index.ts";
import { nextCounter, parsePrefix } from "./output-name.ts";
import { readPictureFile, toPicture } from "./picture-file.ts";
import { decodePng, encodePng } from "./png.ts";
import { upscale } from "./upscale.ts";

type Golden = {
  resizes: { method: string; height: number; width: number; crop: string; out: number[] }[];
  masks: { grow: number; shape: number[]; mask: string | number[]; pixels: number[] }[];
  pictures: {
    name: string;
    png: string;
    shape: number[];
    pixels: number[];
    maskShape: number[];
    mask: number[];
  }[];
  names: {
    files: string[];
    prefix: string;
    filename: string;
    counter: number;
    subfolder: string;
  }[];
};
const golden: Golden = JSON.parse(
  readFileSync(new URL("../../test/fixtures/goldens/nodes.json", import.meta.url), "utf8"),
);

/** The inputs of the Python script. */
function wave(shape: number[], scale = 1, offset = 0): FloatTensor {
  const length = shape.reduce((a, b) => a * b, 1);
  const data = Float32Array.from(
    { length },
    (_, i) => Math.sin(i * 0.7 + 0.01 * i * i) * scale + offset,
  );
  return floatTensor(shape, data);
}

function largestDifference(actual: ArrayLike<number>, expected: readonly number[]): number {
  expect(actual.length).toBe(expected.length);
  return expected.reduce((worst, v, i) => Math.max(worst, Math.abs(v - (actual[i] ?? 9))), 0);
}

const every = (data: Float32Array, step: number) => data.filter((_, i) => i % step === 0);

function contextOf(services: FakeServices): NodeContext {
  const bound = services as FakeServices & NodeContext;
  return Object.assign(bound, {
    nodeId: "1",
    signal: new AbortController().signal,
    progress: () => undefined,
    metadata: () => [["prompt", "{}"]] as const,
  });
}

async function run(name: string, inputs: Record<string, unknown>, services = new FakeServices()) {
  const definition = NODE_DEFINITIONS.get(name);
  if (definition === undefined) throw new Error(`No node ${name}`);
  return definition.run(inputs, contextOf(services));
}

test("resizing equals ComfyUI's common_upscale to 1e-5", () => {
  for (const { method, height, width, crop, out } of golden.resizes) {
    const image = wave([2, method === "lanczos" ? 3 : 4, 5, 7], 0.6, 0.5);
    const made = upscale(image, { height, width }, { method, isCropped: crop === "center" });
    const difference = largestDifference(every(made.data, 3), out);
    expect({ method, height, width, crop, ok: difference < 1e-5 }).toEqual({
      ...{ method, height, width, crop },
      ok: true,
    });
  }
});

/** Remembers what it is given, as the script's KeepVae. */
function keepVae() {
  const seen: FloatTensor[] = [];
  const encode = async (image: FloatTensor) => {
    seen.push(image);
    return floatTensor([1, 4, (image.shape[2] ?? 0) >> 3, (image.shape[3] ?? 0) >> 3]);
  };
  return { seen, vae: { vae: { info: {}, encode }, location: "local" } };
}

test("inpaint masks and grey pixels equal ComfyUI's", async () => {
  const pixels = wave([1, 20, 27, 3], 0.5, 0.5);
  const mask = wave([1, 10, 14], 1, -0.55);
  const hard = floatTensor(
    mask.shape,
    mask.data.map((v) => Number(v > 0)),
  );
  for (const { grow, shape, mask: expected, pixels: grey } of golden.masks) {
    const { vae, seen } = keepVae();
    if (grow < 0) {
      const inputs = { positive: [], negative: [], vae, pixels, mask: hard, noise_mask: true };
      const { outputs } = await run("InpaintModelConditioning", inputs);
      const { noiseMask } = outputs[2] as { noiseMask: FloatTensor };
      expect(noiseMask.shape).toEqual(shape);
      expect(largestDifference(every(noiseMask.data, 7), expected as number[])).toBeLessThan(1e-5);
      continue;
    }
    const inputs = { pixels, vae, mask: hard, grow_mask_by: grow };
    const { outputs } = await run("VAEEncodeForInpaint", inputs);
    const { noiseMask } = outputs[0] as { noiseMask: FloatTensor };
    expect(noiseMask.shape).toEqual(shape);
    expect(noiseMask.data.join("")).toBe(expected);
    // The VAE gets [1, 3, h, w] of -1..1, the script's [1, h, w, 3] of 0..1.
    const [planes] = seen;
    const [, , height = 0, width = 0] = planes?.shape ?? [];
    const back = Float32Array.from({ length: height * width * 3 }, (_, i) => {
      const at = (i % 3) * height * width + Math.floor(i / 3);
      return ((planes?.data[at] ?? 0) + 1) / 2;
    });
    expect(largestDifference(every(back, 13), grey)).toBeLessThan(1e-5);
  }
});

test("pictures and their masks equal what LoadImage reads", async () => {
  for (const picture of golden.pictures) {
    const bytes = Uint8Array.from(Buffer.from(picture.png, "base64"));
    const services = new FakeServices({ inputs: new Map([["a.png", bytes]]) });
    const { outputs } = await run("LoadImage", { image: "a.png" }, services);
    const [image, mask] = outputs as [FloatTensor, FloatTensor];
    expect([picture.name, image.shape, mask.shape]).toEqual([
      ...[picture.name, picture.shape, picture.maskShape],
    ]);
    // JPEG's colours are rounded once more in another place: one level of 255 here and there.
    const within = picture.name.startsWith("jpeg") ? 1.01 / 255 : 1e-5;
    expect(largestDifference(image.data, picture.pixels)).toBeLessThan(within);
    if (picture.mask.length > 0) {
      expect(largestDifference(mask.data, picture.mask)).toBeLessThan(1e-5);
    }
  }
});

test("file names count as ComfyUI's do and stay inside", () => {
  for (const { files, prefix, filename, counter, subfolder } of golden.names) {
    const parsed = parsePrefix(prefix, { width: 64, height: 32, nowMs: 0 });
    expect({ ...parsed, counter: nextCounter(parsed.filename, files) }).toEqual({
      ...{ filename, subfolder, counter },
    });
  }
  const facts = { width: 1, height: 2, nowMs: new Date(2030, 0, 2, 3, 4, 5).getTime() };
  expect(parsePrefix("a/%year%-%month%-%day%/%hour%%minute%%second%_%date:yyyy%", facts)).toEqual({
    subfolder: "a/2030-01-02",
    filename: "030405_%date:yyyy%",
  });
  for (const bad of ["../x", "a/../../x", "/x", "C:\\x", "..", "a\0b"]) {
    expect(() => parsePrefix(bad, facts)).toThrow(/leads out of the output folder/);
  }
});

test("a PNG keeps 8-bit values and its text", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 12, maxLength: 12 }),
      fc.stringMatching(/^[ -~]{0,30}$/),
      (bytes, text) => {
        const image = floatTensor(
          [1, 2, 2, 3],
          Float32Array.from(bytes, (v) => v / 255),
        );
        const png = encodePng(image, 0, { text: [["prompt", text]] });
        expect(readPngText(png)).toEqual([["prompt", text]]);
        const back = toPicture(decodePng(png, "x.png")).image.data;
        // ComfyUI cuts 255 * value off: a byte may come back one lower.
        expect(largestDifference(back, [...image.data])).toBeLessThan(1.01 / 255);
      },
    ),
  );
});

test("broken pictures are one clear error", async () => {
  const png = encodePng(floatTensor([1, 2, 2, 3]), 0);
  fc.assert(
    fc.property(fc.nat(png.length - 1), fc.nat(255), (at, value) => {
      const broken = Uint8Array.from(png);
      broken[at] = value;
      try {
        decodePng(broken, "x.png");
      } catch (error) {
        expect(error).toBeInstanceOf(LunaError);
      }
    }),
  );
  await expect(readPictureFile(new Uint8Array(9), "x.jpg")).rejects.toThrow(/"x.jpg" is no PNG, J/);
  const files = golden.pictures.filter(({ name }) => /jpeg|webp/.test(name));
  const cut = fc.record({ file: fc.constantFrom(...files), length: fc.nat(700) });
  await fc.assert(
    fc.asyncProperty(cut, async ({ file, length }) => {
      const bytes = Buffer.from(file.png, "base64").subarray(0, length);
      await readPictureFile(bytes, "x").catch((error) => expect(error).toBeInstanceOf(LunaError));
    }),
  );
  const huge = Uint8Array.from(png);
  huge.set([0, 1, 0, 0, 0, 1, 0, 0], 16);
  expect(() => decodePng(huge, "x.png")).toThrow(/65536x65536 pixels, limit/);
});

test("conditioning nodes join, mix and mark", async () => {
  const part = (tokens: number, value: number) => ({
    context: floatTensor([1, tokens, 2], new Float32Array(tokens * 2).fill(value)),
    pooled: floatTensor([1, 2], new Float32Array(2).fill(value)),
  });
  const [a, b] = [[part(2, 1)], [part(1, 3)]];
  const one = async (name: string, inputs: Record<string, unknown>) => {
    const [made] = (await run(name, inputs)).outputs;
    return made as { context: FloatTensor; pooled: FloatTensor }[];
  };
  const pair = { conditioning_to: a, conditioning_from: b };
  expect((await one("ConditioningConcat", pair))[0]?.context).toEqual(
    floatTensor([1, 3, 2], new Float32Array([1, 1, 1, 1, 3, 3])),
  );
  const mixed = await one("ConditioningAverage", { ...pair, conditioning_to_strength: 0.75 });
  expect(mixed[0]?.context.data).toEqual(new Float32Array([1.5, 1.5, 0.75, 0.75]));
  expect(mixed[0]?.pooled.data).toEqual(new Float32Array([1.5, 1.5]));
  const area = { conditioning: a, width: 72, height: 64, x: 9, y: 0, strength: 0.5 };
  expect((await one("ConditioningSetArea", area))[0]).toMatchObject({
    area: { type: "cells", width: 9, height: 8, x: 1, y: 0 },
    strength: 0.5,
  });
  const zero = await one("ConditioningZeroOut", { conditioning: a });
  expect([...(zero[0]?.context.data ?? []), ...(zero[0]?.pooled.data ?? [])]).toEqual(
    new Array(6).fill(0),
  );
  expect(await one("ConditioningCombine", { conditioning_1: a, conditioning_2: b })).toHaveLength(
    2,
  );
});

test("sizes beyond the limits are refused before anything is made", async () => {
  const latent = { width: 16384, height: 16384, batch_size: 4096 };
  await expect(run("EmptyLatentImage", latent)).rejects.toThrow(/limit 1073741824/);
  const image = { width: 16384, height: 16384, batch_size: 4096, color: 0 };
  await expect(run("EmptyImage", image)).rejects.toThrow(/limit 1073741824/);
  const samples = { samples: floatTensor([1, 4, 1, 1]) };
  const tiny = { samples, upscale_method: "area", scale_by: 0.01 };
  await expect(run("LatentUpscaleBy", tiny)).rejects.toThrow(/0x0 has no pixels/);
});

test("every node has the inputs of ComfyUI's node of that name", () => {
  const inputs = (name: string) => Object.keys(NODE_DEFINITIONS.get(name)?.inputs ?? {}).join(" ");
  expect(inputs("KSampler")).toBe(
    "model seed steps cfg sampler_name scheduler positive negative latent_image denoise",
  );
  expect(inputs("LoraLoader")).toBe("model clip lora_name strength_model strength_clip");
  expect(inputs("VAEDecodeTiled")).toBe(
    "samples vae tile_size overlap temporal_size temporal_overlap",
  );
});
