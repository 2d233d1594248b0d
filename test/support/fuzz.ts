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
  parseClientMessage,
} from "../../src/protocol/index.ts";
import { fromFloat, parseSafetensors, serializeSafetensors } from "../../src/tensor/index.ts";
import { parsePrompt, validatePrompt } from "../../src/workflow/index.ts";
import { FakeServices } from "./fake-models.ts";
import { loraModel } from "./lora-models.ts";
import { seededValues } from "./seeded.ts";
import { tinyUNetConfig } from "./tiny-checkpoint.ts";

type Random = (below: number) => number;

/** mulberry32, in the public domain. */
function createRandom(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

const tensor = (name: string, shape: readonly number[]) => {
  const count = shape.reduce((product, axis) => product * axis, 1);
  return [name, fromFloat({ shape, data: seededValues(name, count) })] as const;
};

const REQUEST = joinFrame(
  encodeFrame(
    {
      type: "request",
      id: 7,
      op: "model_forward",
      model: "m",
      loras: [{ name: "l", strength: 1 }],
    },
    new Map([tensor("x", [1, 4, 2, 2]), tensor("timesteps", [1]), tensor("context", [1, 3, 8])]),
  ),
);
const LAYER = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q";
const LORA = serializeSafetensors(
  new Map([
    tensor(`${LAYER}.lora_down.weight`, [2, 32]),
    tensor(`${LAYER}.lora_up.weight`, [32, 2]),
    tensor(`${LAYER}.alpha`, []),
  ]),
);
const LORA_MODEL = loraModel(tinyUNetConfig());
const WORKFLOW = readFileSync(new URL("../../examples/acceptance.json", import.meta.url), "utf8");
const SERVICES = new FakeServices({ checkpoints: ["luna-emoji-v1.safetensors"] });

const ABSURD = ["-1", "0", "1e309", "1.5", "9007199254740993", "null", "[]", "{}", '""', "true"];
const TOKENS = [
  '"',
  "{",
  "}",
  "[",
  "]",
  ",",
  ":",
  "\\",
  "\u0000",
  "__metadata__",
  "luna",
  "__proto__",
];

/** Text with one to four numbers, pieces or characters changed. */
function mutateText(text: string, random: Random): string {
  let result = text;
  for (let left = 1 + random(4); left > 0; left--) {
    const at = random(result.length + 1);
    const [head, tail] = [result.slice(0, at), result.slice(at)];
    switch (random(5)) {
      case 0:
        result = head + tail.replace(/-?\d+/, ABSURD[random(ABSURD.length)] ?? "0");
        break;
      case 1:
        result = head + (TOKENS[random(TOKENS.length)] ?? "") + tail;
        break;
      case 2:
        result = head + tail.slice(1 + random(20));
        break;
      case 3:
        result = head + tail.slice(0, random(60)) + tail;
        break;
      default:
        result = head + tail.replace(/"[^"]*"/, ABSURD[random(ABSURD.length)] ?? "0");
    }
  }
  return result;
}

/** A safetensors file: its header changed as text with a length that fits or not, or bytes anywhere. */
function mutateFile(file: Uint8Array, random: Random): Uint8Array {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  switch (random(4)) {
    case 0:
      return file.slice(0, random(file.length));
    case 1: {
      const changed = file.slice();
      for (let left = 1 + random(6); left > 0; left--)
        changed[random(changed.length)] = random(256);
      return changed;
    }
    default: {
      const header = new TextDecoder().decode(file.subarray(8, 8 + length));
      const text = new TextEncoder().encode(mutateText(header, random));
      const body = file.subarray(8 + length);
      const changed = new Uint8Array(8 + text.length + body.length);
      const told = random(8) === 0 ? random(2 ** 31) : text.length;
      new DataView(changed.buffer).setBigUint64(0, BigInt(told), true);
      changed.set(text, 8);
      changed.set(body, 8 + text.length);
      return changed;
    }
  }
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
    attempt: (random) => parseClientMessage(decodeFrame(mutateFile(REQUEST, random)).message),
  },
  {
    name: "safetensors headers",
    share: 0.3,
    codes: ["TENSOR_MALFORMED", "LIMIT_EXCEEDED"],
    attempt: (random) => parseSafetensors(mutateFile(LORA, random)),
  },
  {
    name: "LoRA files",
    share: 0.2,
    codes: ["TENSOR_MALFORMED", "LIMIT_EXCEEDED", "LORA_MALFORMED", "LORA_UNSUPPORTED"],
    attempt: (random) => parseLora(parseSafetensors(mutateFile(LORA, random)), LORA_MODEL),
  },
  {
    name: "workflow JSON",
    share: 0.1,
    codes: ["WORKFLOW_INVALID"],
    attempt: (random) =>
      validatePrompt(parsePrompt(mutateText(WORKFLOW, random)), {
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
