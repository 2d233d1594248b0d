/**
 * Hostile inputs for every parser, the same for the same seed: valid ones with bytes changed, cut,
 * repeated, with numbers made absurd. What comes back must be a value or one LunaError of a code
 * that the parser is documented to give, within bounded time.
 */
import { readFileSync } from "node:fs";
import { LunaError } from "../../src/kernel/index.ts";
import { parseLora } from "../../src/lora/index.ts";
import { NODE_DEFINITIONS } from "../../src/nodes/index.ts";
import {
  decodeFrame,
  encodeFrame,
  joinFrame,
  type Message,
  parseClientMessage,
} from "../../src/protocol/index.ts";
import { fromFloat, parseSafetensors } from "../../src/tensor/index.ts";
import { parsePrompt, validatePrompt } from "../../src/workflow/index.ts";
import { FakeServices } from "./fake-models.ts";
import { loraModel } from "./lora-models.ts";
import {
  createRandom,
  type Json,
  mutateFile,
  mutateJson,
  mutateTensors,
  mutateText,
  pick,
  type Random,
  type Shapes,
} from "./mutations.ts";
import { seededValues } from "./seeded.ts";
import { tinyUNetConfig } from "./tiny-checkpoint.ts";

const tensor = (name: string, shape: readonly number[]) => {
  const count = shape.reduce((product, axis) => product * axis, 1);
  return [name, fromFloat({ shape, data: seededValues(name, count) })] as const;
};
const TENSORS = new Map([tensor("x", [1, 4, 2, 2]), tensor("timesteps", [1])]);
const DIGEST = `sha256:${"a".repeat(64)}`;
const request = { type: "request", id: 7 } as const;
const loras = [
  { name: "l", strength: 1 },
  { digest: DIGEST, strength: -0.5 },
];
const standing = { priority: "interactive", deadlineMs: 5000 } as const;
const freeu = { version: 2, b1: 1.1, b2: 1.2, s1: 0.9, s2: 0.2 } as const;

/** One of each kind that clients send. */
const MESSAGES: readonly [Message, ...Message[]] = [
  { type: "hello", protocol: 1, client: { name: "c", version: "1", pid: 3 }, token: "t" },
  { type: "cancel", id: 7 },
  {
    ...{ ...request, ...standing, op: "model_forward", model: "m", loras },
    ...{ refs: { context: DIGEST }, features: { freeu, pag: { blocks: ["middle.0"] } } },
  },
  { ...request, op: "clip_encode", model: "m", encoder: "clip-l", layer: -2, isLayerNormed: true },
  { ...request, op: "vae_decode", model: "m", tile: { size: 512, overlap: 64 } },
  { ...request, op: "vae_encode", model: "m", tile: { size: 512, overlap: 64 } },
  { ...request, op: "register_model_by_path", name: "checkpoints/m.safetensors" },
  { ...request, op: "register_checkpoint", path: "/models/m.safetensors" },
  { ...request, op: "register_model", upload: "u", offset: 0, last: false },
  { ...request, op: "preload", model: "m", components: ["unet", "clip-l"] },
  { ...request, op: "put_tensors" },
  { ...request, op: "put_lora" },
  { ...request, op: "unload", model: "m" },
  { ...request, op: "watch" },
];

const UNET = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q";
const CONVOLUTION = "lora_unet_input_blocks_1_0_in_layers_2";
const OTHER = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_k";
const keyed = (layer: string, shapes: Shapes): Shapes =>
  Object.fromEntries(Object.entries(shapes).map(([part, shape]) => [`${layer}.${part}`, shape]));

/** One file of each adapter format, on a linear layer of 32x32 or a convolution of 32x32x3x3. */
const LORAS: readonly [Shapes, ...Shapes[]] = [
  {
    ...keyed(UNET, { "lora_down.weight": [2, 32], "lora_up.weight": [32, 2], alpha: [] }),
    ...keyed(OTHER, { "lora_A.weight": [4, 32], "lora_B.weight": [32, 4] }),
  },
  keyed(CONVOLUTION, {
    ...{ "lora_down.weight": [2, 32, 1, 1], "lora_up.weight": [32, 2, 1, 1] },
    "lora_mid.weight": [2, 2, 3, 3],
  }),
  keyed(UNET, { "lora_down.weight": [2, 32], "lora_up.weight": [32, 2], dora_scale: [32, 1] }),
  keyed(UNET, {
    ...{ hada_w1_a: [32, 2], hada_w1_b: [2, 32], hada_w2_a: [32, 2], hada_w2_b: [2, 32] },
    alpha: [],
  }),
  keyed(CONVOLUTION, {
    ...{ hada_w1_a: [2, 32], hada_w1_b: [2, 32], hada_w2_a: [2, 32], hada_w2_b: [2, 32] },
    ...{ hada_t1: [2, 2, 3, 3], hada_t2: [2, 2, 3, 3] },
  }),
  keyed(UNET, { lokr_w1: [4, 4], lokr_w2_a: [8, 2], lokr_w2_b: [2, 8], alpha: [] }),
  keyed(UNET, {
    "a1.weight": [2, 32],
    "a2.weight": [32, 2],
    "b1.weight": [32, 2],
    "b2.weight": [2, 32],
  }),
  keyed(UNET, { oft_blocks: [4, 8, 8], alpha: [] }),
  keyed(UNET, { oft_blocks: [2, 4, 8, 8], rescale: [32, 1] }),
  keyed(UNET, { diff: [32, 32], diff_b: [32] }),
  { ...keyed(CONVOLUTION, { set_weight: [32, 32, 3, 3] }), ...keyed(OTHER, { diff: [32, 32] }) },
];
const LORA_MODEL = loraModel(tinyUNetConfig());
const WORKFLOW = readFileSync(new URL("../../examples/acceptance.json", import.meta.url), "utf8");
const SERVICES = new FakeServices({ checkpoints: ["luna-emoji-v1.safetensors"] });

/** Half of the frames are broken as files, half are whole and say something else. */
function hostileFrame(random: Random): Uint8Array {
  const message = pick(MESSAGES, random);
  if (random(2) === 0) return mutateFile(joinFrame(encodeFrame(message, TENSORS)), random);
  // What is hostile has no type.
  const changed = mutateJson(message as Json, random) as Message;
  return joinFrame(encodeFrame(changed, TENSORS));
}

function hostileLora(random: Random): Uint8Array {
  const file = mutateTensors(pick(LORAS, random), random);
  return random(3) === 0 ? mutateFile(file, random) : file;
}

function hostileWorkflow(random: Random): string {
  if (random(2) === 0) return mutateText(WORKFLOW, random);
  return JSON.stringify(mutateJson(JSON.parse(WORKFLOW), random));
}

type Target = Readonly<{
  name: string;
  /** Share of all cases. */
  share: number;
  codes: readonly string[];
  attempt: (random: Random) => unknown;
}>;

const TARGETS: readonly Target[] = [
  {
    name: "frames",
    share: 0.4,
    codes: ["FRAME_MALFORMED", "LIMIT_EXCEEDED", "REQUEST_INVALID", "PROTOCOL_VERSION"],
    attempt: (random) => parseClientMessage(decodeFrame(hostileFrame(random)).message),
  },
  {
    name: "safetensors headers",
    share: 0.3,
    codes: ["TENSOR_MALFORMED", "LIMIT_EXCEEDED"],
    attempt: (random) =>
      parseSafetensors(mutateFile(mutateTensors(pick(LORAS, random), random), random)),
  },
  {
    name: "LoRA files",
    share: 0.2,
    codes: ["TENSOR_MALFORMED", "LIMIT_EXCEEDED", "LORA_MALFORMED", "LORA_UNSUPPORTED"],
    attempt: (random) => parseLora(parseSafetensors(hostileLora(random)), LORA_MODEL),
  },
  {
    name: "workflow JSON",
    share: 0.1,
    codes: ["WORKFLOW_INVALID"],
    attempt: (random) =>
      validatePrompt(parsePrompt(hostileWorkflow(random)), {
        definitions: NODE_DEFINITIONS,
        services: SERVICES,
      }),
  },
];

export type FuzzResult = Readonly<{
  name: string;
  cases: number;
  accepted: number;
  refused: Readonly<Record<string, number>>;
  slowestMs: number;
}>;

/** Throws at the first case that is neither accepted nor refused in a documented way, naming it. */
export async function fuzz(cases: number, seed: number): Promise<FuzzResult[]> {
  const results: FuzzResult[] = [];
  for (const [index, target] of TARGETS.entries()) {
    const count = Math.round(cases * target.share);
    const refused: Record<string, number> = {};
    let [accepted, slowestMs] = [0, 0];
    for (let n = 0; n < count; n++) {
      const own = (seed + Math.imul(index + 1, 0x9e3779b1) + n) >>> 0;
      const beginMs = performance.now();
      try {
        await target.attempt(createRandom(own));
        accepted++;
      } catch (error) {
        const code = error instanceof LunaError ? error.code : "";
        if (!target.codes.includes(code)) {
          const message = `${target.name}, seed ${seed}, case ${n} (${own}): ${error}`;
          throw new Error(message, { cause: error });
        }
        refused[code] = (refused[code] ?? 0) + 1;
      }
      slowestMs = Math.max(slowestMs, performance.now() - beginMs);
    }
    results.push({ name: target.name, cases: count, accepted, refused, slowestMs });
  }
  return results;
}
