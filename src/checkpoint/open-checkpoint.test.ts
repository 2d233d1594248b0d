import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  tinyTensors as makeTinyTensors,
  TINY_VAE,
  type TinyOptions,
  tinyTextConfig,
  tinyUNetConfig,
} from "../../test/support/tiny-checkpoint.ts";
import {
  ADAPTER,
  CONTROL_NET,
  controlTensors,
  UNION_NET,
} from "../../test/support/tiny-control.ts";
import { LunaError } from "../kernel/index.ts";
import {
  DTYPE_BYTES,
  type DType,
  parseSafetensorsHeader,
  type SafetensorsHeader,
  serializeSafetensors,
  type Tensor,
} from "../tensor/index.ts";
import { unetDiffusersNames, vaeDiffusersNames } from "./diffusers-names.ts";
import { layerWeights } from "./layer.ts";
import { openCheckpoint, type ReadTensor } from "./open-checkpoint.ts";
import { taesdLayers } from "./taesd-layers.ts";
import type { Checkpoint, Family, VaeConfig } from "./types.ts";

const FAMILIES: readonly Family[] = ["sd1", "sd2", "sdxl", "sdxl-refiner"];
const MEGABYTE = 1e6;

const made = new Map<string, ReadonlyMap<string, Tensor>>();

/** A map of its own for each caller; the tensors in it are made once. */
function tinyTensors(options: TinyOptions = {}): Map<string, Tensor> {
  const key = JSON.stringify(options);
  const tensors = made.get(key) ?? makeTinyTensors(options);
  made.set(key, tensors);
  return new Map(tensors);
}

type Entry = [name: string, shape: number[], dtype: DType];

/** Headers of each family, and of control nets. */
const SHAPES: Readonly<Record<string, readonly Entry[]>> = Object.fromEntries(
  [
    ...FAMILIES.map((family) => [family, tinyTensors({ family })] as const),
    ["control", controlTensors(CONTROL_NET, { prefix: "control_model." })] as const,
    ["union", controlTensors(UNION_NET, { isDiffusers: true })] as const,
    ["adapter", controlTensors(ADAPTER)] as const,
    ["their adapter", controlTensors(ADAPTER, { isDiffusers: true })] as const,
  ].map(([kind, tensors]) => [
    kind,
    Array.from(tensors, ([name, { shape, dtype }]): Entry => [name, [...shape], dtype]),
  ]),
);

type File = Readonly<{ header: SafetensorsHeader; readTensor: ReadTensor; bytes: Uint8Array }>;

function fileOf(tensors: ReadonlyMap<string, Tensor>): File {
  const bytes = serializeSafetensors(tensors);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = parseSafetensorsHeader(bytes.subarray(8, 8 + length), bytes.byteLength);
  const readTensor: ReadTensor = async ({ dtype, shape, begin, end }) => ({
    dtype,
    shape,
    bytes: bytes.subarray(begin, end),
  });
  return { header, readTensor, bytes };
}

function open(tensors: ReadonlyMap<string, Tensor>): Promise<Checkpoint> {
  const { header, readTensor } = fileOf(tensors);
  return openCheckpoint(header, readTensor);
}

/** Tensors without data: only names and shapes matter to most tests. */
function empty(shapes: Iterable<readonly [string, readonly number[]]>, dtype: DType = "F16") {
  return new Map(
    [...shapes].map(([name, shape]): [string, Tensor] => {
      const count = shape.reduce((product, axis) => product * axis, 1);
      return [name, { dtype, shape, bytes: new Uint8Array(count * DTYPE_BYTES[dtype]) }];
    }),
  );
}

function renamed(
  tensors: ReadonlyMap<string, Tensor>,
  rename: (name: string) => string | undefined,
) {
  const result = new Map<string, Tensor>();
  for (const [name, tensor] of tensors) {
    const other = rename(name);
    if (other !== undefined) result.set(other, tensor);
  }
  return result;
}

const only =
  (prefix: string, to = "") =>
  (name: string) =>
    name.startsWith(prefix) ? to + name.slice(prefix.length) : undefined;

async function refusal(tensors: ReadonlyMap<string, Tensor>): Promise<string> {
  const error = await open(tensors).then(
    () => undefined,
    (cause: unknown) => cause,
  );
  if (!LunaError.isCode(error, "CHECKPOINT_UNSUPPORTED")) throw error;
  return error.message;
}

describe("full checkpoints", () => {
  test.each(FAMILIES)("%s", async (family) => {
    const tensors = tinyTensors({ family });
    const { header, readTensor, bytes } = fileOf(tensors);
    const checkpoint = await openCheckpoint(header, readTensor);
    expect(bytes.byteLength).toBeLessThan((family === "sd1" ? 3 : 5) * MEGABYTE);
    expect(checkpoint.family).toBe(family);
    expect(checkpoint.prediction).toBe("eps");
    expect(checkpoint.dtype).toBe("F16");
    expect(checkpoint.latentScale).toBe(family.startsWith("sdxl") ? 0.13025 : 0.18215);
    expect(checkpoint.unet?.config).toEqual(tinyUNetConfig({ family }));
    expect(checkpoint.vae?.config).toEqual(TINY_VAE);
    const kinds = { sd1: ["clip-l"], sd2: ["clip-h"], sdxl: ["clip-l", "clip-g"] } as const;
    const expected = family === "sdxl-refiner" ? (["clip-g"] as const) : kinds[family];
    expect(checkpoint.textEncoders.map(({ config }) => config)).toEqual(
      expected.map(tinyTextConfig),
    );
  });

  test("inpainting and pix2pix", async () => {
    for (const inChannels of [8, 9] as const) {
      const { unet } = await open(tinyTensors({ inChannels }));
      expect(unet?.config.inChannels).toBe(inChannels);
    }
  });

  test("prediction v: SD2 by its bias, SDXL by its key, with zero terminal SNR", async () => {
    expect((await open(tinyTensors({ family: "sd2", prediction: "v" }))).prediction).toBe("v");
    const inpaint = tinyTensors({ family: "sd2", prediction: "v", inChannels: 9 });
    expect((await open(inpaint)).prediction).toBe("eps");
    const sdxl = tinyTensors({ family: "sdxl", prediction: "v" });
    expect(await open(sdxl)).toMatchObject({ prediction: "v", isZeroTerminalSnr: false });
    sdxl.set("ztsnr", { dtype: "F32", shape: [0], bytes: new Uint8Array(0) });
    expect(await open(sdxl)).toMatchObject({ prediction: "v", isZeroTerminalSnr: true });
    for (const key of ["edm_mean", "edm_std"]) {
      sdxl.set(key, { dtype: "F32", shape: [0], bytes: new Uint8Array(0) });
    }
    expect((await open(sdxl)).prediction).toBe("edm");
  });
});

test("OpenCLIP's fused q, k, v are slices of the stored tensor, its projection is transposed", async () => {
  const { header, readTensor } = fileOf(tinyTensors({ family: "sd2" }));
  const [text] = (await openCheckpoint(header, readTensor)).textEncoders;
  const fused = header.tensors.get(
    "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight",
  );
  const begin = fused?.begin ?? 0;
  const refs = ["q", "k", "v"].map((part) =>
    text?.weights.get(`text_model.encoder.layers.1.self_attn.${part}_proj.weight`),
  );
  expect(refs.map((ref) => [ref?.begin, ref?.end, ref?.shape])).toEqual(
    [0, 1, 2].map((i) => [begin + i * 128, begin + (i + 1) * 128, [8, 8]]),
  );
  expect(text?.weights.get("text_projection.weight")).toMatchObject({
    shape: [8, 8],
    isTransposed: true,
  });
});

describe("single files", () => {
  test("a bare UNet, in LDM and in diffusers naming", async () => {
    const full = tinyTensors({ family: "sdxl" });
    const bare = renamed(full, only("model.diffusion_model."));
    const whole = await open(full);
    const ldm = await open(bare);
    expect(ldm.unet?.config).toEqual(whole.unet?.config);
    expect(ldm.textEncoders).toEqual([]);
    expect(ldm.vae).toBeUndefined();
    const config = tinyUNetConfig({ family: "sdxl" });
    const names = new Map([...unetDiffusersNames(config)].map(([theirs, ours]) => [ours, theirs]));
    const diffusers = renamed(bare, (name) => {
      const dot = name.lastIndexOf(".");
      return `${names.get(name.slice(0, dot))}${name.slice(dot)}`;
    });
    const other = await open(diffusers);
    expect(other.family).toBe("sdxl");
    expect(other.unet?.config).toEqual(whole.unet?.config);
    expect([...(other.unet?.weights.keys() ?? [])]).toEqual([...(ldm.unet?.weights.keys() ?? [])]);
  });

  test("text encoders, with and without text_model, as OpenCLIP and as transformers", async () => {
    const sd1 = tinyTensors();
    const bare = renamed(sd1, only("cond_stage_model.transformer."));
    expect((await open(bare)).textEncoders[0]?.config).toEqual(tinyTextConfig("clip-l"));
    const short = renamed(sd1, only("cond_stage_model.transformer.text_model."));
    expect((await open(short)).textEncoders[0]?.config).toEqual(tinyTextConfig("clip-l"));
    const old = renamed(
      sd1,
      only("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),
    );
    expect((await open(old)).textEncoders[0]?.config).toEqual(tinyTextConfig("clip-l"));
    const openclip = renamed(
      tinyTensors({ family: "sdxl" }),
      only("conditioner.embedders.1.model."),
    );
    expect((await open(openclip)).textEncoders[0]?.config).toEqual(tinyTextConfig("clip-g"));
  });

  test("a bare VAE, in LDM and in both diffusers namings, and each half of it", async () => {
    const bare = renamed(tinyTensors(), only("first_stage_model."));
    expect((await open(bare)).vae?.config).toEqual(TINY_VAE);
    for (const isOld of [false, true]) {
      const names = new Map<string, string>();
      for (const [theirs, ours] of vaeDiffusersNames(TINY_VAE)) {
        if (isOld || !names.has(ours)) names.set(ours, theirs);
      }
      const diffusers = renamed(bare, (name) => {
        const dot = name.lastIndexOf(".");
        return `${names.get(name.slice(0, dot))}${name.slice(dot)}`;
      });
      const { vae } = await open(diffusers);
      expect(vae?.config).toEqual(TINY_VAE);
      expect(vae?.weights.size).toBe(bare.size);
    }
    const decoder = renamed(bare, (name) => (/^(decoder|post)/.test(name) ? name : undefined));
    expect((await open(decoder)).vae?.config).toEqual({ ...TINY_VAE, hasEncoder: false });
    const encoder = renamed(bare, (name) => (/^(encoder|quant)/.test(name) ? name : undefined));
    expect((await open(encoder)).vae?.config).toEqual({ ...TINY_VAE, hasDecoder: false });
  });

  test("TAESD under each of its names", async () => {
    const config: VaeConfig = { ...TINY_VAE, kind: "taesd", widths: [64], resBlocks: 3 };
    const both = empty(layerWeights(taesdLayers(config)));
    expect((await open(both)).vae?.config).toEqual(config);
    const comfy = renamed(both, (name) => `taesd_${name}`);
    expect((await open(comfy)).vae?.config).toEqual(config);
    const decoder = await open(renamed(both, only("decoder.")));
    expect(decoder.vae?.config).toEqual({ ...config, hasEncoder: false });
    const encoder = await open(renamed(both, only("encoder.")));
    expect(encoder.vae?.config).toEqual({ ...config, hasDecoder: false });
    const diffusers = await open(
      renamed(both, (name) =>
        name.replace(
          /^(\w+)\.(\d+)/,
          (_, half, index) => `${half}.layers.${half === "decoder" ? Number(index) - 1 : index}`,
        ),
      ),
    );
    expect(diffusers.vae?.config).toEqual(config);
    expect([...(diffusers.vae?.weights.keys() ?? [])].sort()).toEqual([...both.keys()].sort());
    const scaled = new Map(comfy);
    const bytes = new Uint8Array(new Float32Array([0.13025]).buffer);
    scaled.set("vae_scale", { dtype: "F32", shape: [], bytes });
    expect((await open(scaled)).latentScale).toBeCloseTo(0.13025, 7);
  });
});

describe("what is something else is named", () => {
  test.each([
    ["a Flux", "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"],
    ["a Stable Diffusion 3", "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight"],
    ["a LoRA", "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"],
    ["an incomplete ControlNet", "control_model.zero_convs.0.0.weight"],
    ["a ControlNet for Flux", "controlnet_blocks.0.weight"],
    ["a Control-LoRA", "lora_controlnet"],
    ["a ControlNet stored as its difference", "difference"],
    ["a T2I-Adapter of unknown layout", "body.0.block1.weight"],
    ["a T5", "encoder.block.0.layer.0.SelfAttention.q.weight"],
    ["an upscaling", "model.0.weight"],
    ["no net known here", "some.other.thing"],
  ])("%s", async (found, key) => {
    expect(await refusal(empty([[key, [4, 4]]]))).toContain(`This file holds ${found}`);
  });

  test("an empty file", async () => {
    expect(await refusal(new Map())).toContain("no tensors");
  });

  test("a scaled fp8 checkpoint, a video UNet, unCLIP, depth", async () => {
    const scaled = tinyTensors();
    scaled.set("scaled_fp8", { dtype: "F8_E4M3", shape: [0], bytes: new Uint8Array(0) });
    expect(await refusal(scaled)).toContain("scaled fp8");
    const extra = tinyTensors();
    const [, sample = scaled.get("scaled_fp8")] = [...extra][0] ?? [];
    if (sample === undefined) throw new Error("No sample.");
    extra.set("model.diffusion_model.input_blocks.1.1.fuser.gate", sample);
    expect(await refusal(extra)).toContain('unknown layer "input_blocks.1.1.fuser.gate"');
    const broken = tinyTensors();
    broken.delete("model.diffusion_model.middle_block.2.out_layers.3.bias");
    expect(await refusal(broken)).toContain('incomplete UNet: "middle_block.2.out_layers.3.bias"');
    const depth = tinyTensors();
    const name = "model.diffusion_model.input_blocks.0.0.weight";
    for (const [key, tensor] of empty([[name, [32, 5, 3, 3]]])) depth.set(key, tensor);
    expect(await refusal(depth)).toContain("5 input channels");
  });
});

describe("hostile headers", () => {
  const allNames = Object.values(SHAPES).flat();
  const shape = fc.array(fc.oneof(fc.integer({ min: 0, max: 64 }), fc.constant(2 ** 40)), {
    maxLength: 5,
  });
  const dtype = fc.constantFrom<DType>("F32", "F16", "I64", "F8_E4M3", "BOOL");
  const randomEntry = fc.tuple(
    fc.oneof(fc.constantFrom(...allNames.map(([name]) => name)), fc.string({ maxLength: 40 })),
    shape,
    dtype,
  );

  /** Only a checkpoint or CHECKPOINT_UNSUPPORTED may come out. */
  async function isTame(entries: Iterable<readonly [string, readonly number[], DType]>) {
    const tensors = new Map(
      [...entries].map(([name, axes, type]) => [
        name,
        { dtype: type, shape: axes, begin: 0, end: 0 },
      ]),
    );
    try {
      await openCheckpoint({ metadata: {}, tensors, dataBegin: 0 });
      return true;
    } catch (error) {
      return LunaError.isCode(error, "CHECKPOINT_UNSUPPORTED");
    }
  }

  test("made of real names with random shapes", async () => {
    await fc.assert(fc.asyncProperty(fc.array(randomEntry, { maxLength: 60 }), isTame), {
      numRuns: 300,
    });
  });

  test("a real header with some entries changed or left out", async () => {
    const changes = fc.array(fc.tuple(fc.nat(2000), fc.option(shape), dtype), {
      minLength: 1,
      maxLength: 4,
    });
    const kinds = fc.constantFrom(...Object.keys(SHAPES));
    const property = fc.asyncProperty(kinds, changes, (kind, list) => {
      const entries = (SHAPES[kind] ?? []).map((entry) => [...entry] as Entry);
      for (const [at, axes, type] of list) {
        const index = at % entries.length;
        const [name] = entries[index] ?? [""];
        if (axes === null) entries.splice(index, 1);
        else entries[index] = [name, axes, type];
      }
      return isTame(entries);
    });
    await fc.assert(property, { numRuns: 200 });
  });
});
