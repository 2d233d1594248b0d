import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  denseDelta,
  loraFile,
  loraModel,
  scalar,
  weightTarget,
} from "../../test/support/lora-models.ts";
import type { UNetConfig } from "../checkpoint/index.ts";
import type { AdapterTarget } from "../graph/index.ts";
import { LunaError } from "../kernel/index.ts";
import { fromFloat, parseSafetensors, type Tensor, toFloat } from "../tensor/index.ts";
import { joinLoras, parseLora, parseShare } from "./parse-lora.ts";
import type { LoraModel } from "./types.ts";

const goldenUrl = (name: string): URL =>
  new URL(`../../test/fixtures/goldens/${name}`, import.meta.url);
const configs: { unet: Record<string, { config: UNetConfig }> } = JSON.parse(
  readFileSync(goldenUrl("checkpoint-names.json"), "utf8"),
);
const TINY = loraModel(configs.unet["tiny-sd1"]?.config, { "clip-l": [128, 3] });
const QUERY = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q";
const QUERY_NAME = "input_blocks.3.1.transformer_blocks.0.attn1.to_q";

function relativeError(actual: Float64Array, expected: Float32Array, strength: number): number {
  let difference = 0;
  let norm = 0;
  for (const [i, value] of expected.entries()) {
    difference += (strength * (actual[i] ?? 0) - value) ** 2;
    norm += value ** 2;
  }
  return Math.sqrt(difference / norm);
}

const oneTarget = (target: AdapterTarget): LoraModel => ({
  text: new Map([["clip-l", [target]]]),
});

describe("factors equal the weight change ComfyUI computes", () => {
  const goldens = parseSafetensors(readFileSync(goldenUrl("lora/deltas.safetensors")));
  const names = Object.keys(goldens.metadata);
  test.each(names)("%s", (name) => {
    const parts = [...goldens.tensors].filter(([key]) => key.startsWith(`${name}|x`));
    const delta = goldens.tensors.get(`${name}|delta`);
    if (delta === undefined) throw new Error(`no delta of ${name}`);
    const file = loraFile(
      Object.fromEntries(
        parts.map(([key, tensor]) => [key.replace(`${name}|x`, "text_encoder.x"), tensor]),
      ),
    );
    const parsed = parseLora(file, oneTarget(weightTarget("x", delta.shape)));
    const factors = parsed.text.get("clip-l")?.get("x");
    if (factors === undefined) throw new Error("no factors");
    expect(factors.rank).toBeLessThanOrEqual(24);
    expect(parsed.unmatchedKeys).toEqual([]);
    expect(parsed.bytes).toBe(factors.up.byteLength + factors.down.byteLength);
    const strength = Number(goldens.metadata[name]);
    const { data } = toFloat(delta);
    expect(relativeError(denseDelta(factors), data, strength)).toBeLessThan(1e-6);
  });
  test("every kind is there", () => {
    expect(names.length).toBe(26);
  });
});

test("one file adapts the net and the text encoder", () => {
  const parsed = parseLora(
    loraFile({
      [`${QUERY}.lora_up.weight`]: [128, 4],
      [`${QUERY}.lora_down.weight`]: [4, 128],
      [`${QUERY}.alpha`]: scalar(2),
      "lora_te_text_model_encoder_layers_2_mlp_fc1.lora_up.weight": [512, 2],
      "lora_te_text_model_encoder_layers_2_mlp_fc1.lora_down.weight": [2, 128],
      "lora_te_text_model_encoder_layers_7_mlp_fc1.lora_down.weight": [2, 128],
      "something.else": [1],
    }),
    TINY,
  );
  expect(parsed.format).toBe("lora");
  expect([...parsed.unet.keys()]).toEqual([QUERY_NAME]);
  expect([...(parsed.text.get("clip-l")?.keys() ?? [])]).toEqual([
    "text_model.encoder.layers.2.mlp.fc1",
  ]);
  expect(parsed.unmatchedKeys).toEqual([
    "something.else",
    "lora_te_text_model_encoder_layers_7_mlp_fc1.lora_down.weight",
  ]);
});

test("a UNet or text encoder in a file of its own leaves the other's keys alone", () => {
  const file = loraFile({
    [`${QUERY}.lora_up.weight`]: [128, 4],
    [`${QUERY}.lora_down.weight`]: [4, 128],
  });
  const textOnly = parseLora(file, loraModel(undefined, { "clip-l": [128, 3] }));
  expect([textOnly.text.size, textOnly.unmatchedKeys]).toEqual([0, []]);
  const text = loraFile({
    "lora_te_text_model_encoder_layers_2_mlp_fc1.lora_up.weight": [512, 2],
    "lora_te_text_model_encoder_layers_2_mlp_fc1.lora_down.weight": [2, 128],
  });
  const unetOnly = parseLora(text, loraModel(configs.unet["tiny-sd1"]?.config));
  expect([unetOnly.unet.size, unetOnly.unmatchedKeys]).toEqual([0, []]);
});

test("alpha divides by the rank and is 1 where it is absent", () => {
  const up = [`${QUERY}.lora_up.weight`, [128, 4]] as const;
  const down = [`${QUERY}.lora_down.weight`, [4, 128]] as const;
  const plain = parseLora(loraFile(Object.fromEntries([up, down])), TINY).unet.get(QUERY_NAME);
  const half = parseLora(
    loraFile({ ...Object.fromEntries([up, down]), [`${QUERY}.alpha`]: scalar(2) }),
    TINY,
  ).unet.get(QUERY_NAME);
  expect(half?.down).toEqual(plain?.down);
  expect(half?.up).toEqual(plain?.up.map((value) => value / 2));
});

test.each([
  ["lora_magnitude_vector.weight", "DoRA"],
  ["on_input", "IA3"],
  ["reshape_weight", "an enlarged weight"],
])("%s is refused by name", (suffix, format) => {
  const file = loraFile({
    [`${QUERY}.lora_up.weight`]: [128, 4],
    [`${QUERY}.lora_down.weight`]: [4, 128],
    [`${QUERY}.${suffix}`]: [128, 1],
  });
  expect(() => parseLora(file, TINY)).toThrow(
    expect.objectContaining({
      code: "LORA_UNSUPPORTED",
      message: expect.stringMatching(new RegExp(`${QUERY}\\.${suffix}.*${format}`)),
    }),
  );
});

test.each([
  ["diff", { "lora_up.weight": [128, 4], "lora_down.weight": [4, 128], diff: [128, 128] }],
  ["half a GLoRA", { "a1.weight": [128, 4], "a2.weight": [4, 128] }],
  ["difference of another shape", { diff: [128, 64] }],
  ["bias of another size", { diff_b: [64] }],
  [
    "DoRA of another size",
    { "lora_up.weight": [128, 4], "lora_down.weight": [4, 128], dora_scale: [64, 1] },
  ],
  ["OFT blocks of another size", { oft_blocks: [3, 8, 8] }],
] as const)("malformed beside the low-rank kinds: %s", (_, parts) => {
  expect(() => parseLora(withQuery(parts), TINY)).toThrow(
    expect.objectContaining({ code: "LORA_MALFORMED" }),
  );
});

test("a dense part of a net the model lacks is only unmatched", () => {
  const key = "lora_te2_text_model_encoder_layers_0_layer_norm1.w_norm";
  const file = loraFile({
    [`${QUERY}.lora_up.weight`]: [128, 4],
    [`${QUERY}.lora_down.weight`]: [4, 128],
    [key]: [64],
  });
  expect(parseLora(file, TINY).unmatchedKeys).toEqual([key]);
});

const withQuery = (parts: Record<string, readonly number[] | Tensor>) =>
  loraFile(Object.fromEntries(Object.entries(parts).map(([key, v]) => [`${QUERY}.${key}`, v])));
const nan = fromFloat({ shape: [4, 128], data: new Float32Array(512).fill(Number.NaN) });
const tooLarge = fromFloat({ shape: [4, 128], data: new Float32Array(512).fill(3e38) });

test.each([
  [
    "outputs",
    { "lora_up.weight": [64, 4], "lora_down.weight": [4, 128] },
    /\[64, 4\].*\[128, 128\]/,
  ],
  [
    "inputs",
    { "lora_up.weight": [128, 4], "lora_down.weight": [4, 64] },
    /\[4, 64\].*\[128, 128\]/,
  ],
  ["rank", { "lora_up.weight": [128, 4], "lora_down.weight": [5, 128] }, /\[128, 4\].*\[5, 128\]/],
  ["up alone", { "lora_up.weight": [128, 4] }, /no matching "down"/],
  ["down alone", { "lora_down.weight": [4, 128] }, /no matching "up"/],
  ["rank 0", { "lora_up.weight": [128, 0], "lora_down.weight": [0, 128] }, /\[128, 0\]/],
  ["NaN", { "lora_up.weight": [128, 4], "lora_down.weight": nan }, /NaN/],
  [
    "infinite alpha",
    { "lora_up.weight": [128, 4], "lora_down.weight": [4, 128], alpha: scalar(Infinity) },
    /NaN or inf/,
  ],
  [
    "alpha of two",
    { "lora_up.weight": [128, 4], "lora_down.weight": [4, 128], alpha: [2] },
    /not one number/,
  ],
  [
    "overflow",
    {
      hada_w1_a: [128, 4],
      hada_w1_b: tooLarge,
      hada_w2_a: [128, 4],
      hada_w2_b: tooLarge,
    },
    /NaN or inf/,
  ],
  ["mixture", { "lora_up.weight": [128, 4], lokr_w1: [4, 128] }, /mixes lora and lokr/],
  ["half a LoHa", { hada_w1_a: [128, 4], hada_w1_b: [4, 128] }, /no matching "hada_w2_a"/],
  ["LoKr without w2", { lokr_w1: [8, 8] }, /no matching "lokr_w2_a"/],
] as const)("malformed: %s", (_, parts, message) => {
  expect(() => parseLora(withQuery(parts), TINY)).toThrow(
    expect.objectContaining({ code: "LORA_MALFORMED", message: expect.stringMatching(message) }),
  );
});

test("of two names of one layer ComfyUI's later one counts, wherever it stands in the file", () => {
  const processor = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q";
  // From the first that ComfyUI reads to the last; it does not know the first of all.
  const names = [
    processor.replace(".processor", ""),
    `lora_unet_${QUERY_NAME.replaceAll(".", "_")}`,
    `diffusion_model.${QUERY_NAME}`,
    QUERY,
    processor,
  ];
  const lora = (name: string, rank: number) => ({
    [`${name}.lora_up.weight`]: [128, rank],
    [`${name}.lora_down.weight`]: [rank, 128],
  });
  for (const [at, later] of names.entries()) {
    for (const earlier of names.slice(0, at)) {
      const [one, other] = [lora(earlier, 3), lora(later, 4)];
      for (const file of [
        { ...one, ...other },
        { ...other, ...one },
      ]) {
        const parsed = parseLora(loraFile(file), TINY);
        expect([...parsed.unet].map(([name, { rank }]) => [name, rank])).toEqual([[QUERY_NAME, 4]]);
        expect(parsed.unmatchedKeys).toEqual([]);
        const shares = [0, 1].map((index) => parseShare(loraFile(file), TINY, { index, count: 2 }));
        expect(joinLoras(shares).unet.get(QUERY_NAME)?.rank).toBe(4);
      }
    }
  }
});

test("of two names of one layer the weight may come from one and the bias from the other", () => {
  const canonical = "input_blocks.3.0.in_layers.2";
  const earlier = `diffusion_model.${canonical}`;
  const later = "lora_unet_down_blocks_1_resnets_0_conv1";
  const model = loraModel(configs.unet["tiny-sd1"]?.config);
  const outputs = model.unet?.targets.find(({ name }) => name === canonical)?.outputs ?? 0;
  const inputs = model.unet?.targets.find(({ name }) => name === canonical)?.inputs ?? 0;
  const patch = parseLora(
    loraFile({
      [`${later}.diff_b`]: [outputs],
      [`${later}.alpha`]: scalar(1),
      [`${earlier}.lora_up.weight`]: [outputs, 4, 1, 1],
      [`${earlier}.lora_down.weight`]: [4, inputs, 3, 3],
      [`${earlier}.diff_b`]: [outputs],
    }),
    model,
  ).unet.get(canonical);
  expect([patch?.rank, patch?.bias?.length]).toEqual([4, outputs]);
});

test("a rank beyond the limit is refused before its factors are made", () => {
  const file = loraFile({
    "text_encoder.x.hada_w1_a": [64, 40],
    "text_encoder.x.hada_w1_b": [40, 64],
    "text_encoder.x.hada_w2_a": [64, 40],
    "text_encoder.x.hada_w2_b": [40, 64],
  });
  expect(() => parseLora(file, oneTarget(weightTarget("x", [64, 64])))).toThrow(
    expect.objectContaining({ code: "LORA_UNSUPPORTED", message: expect.stringMatching(/1600/) }),
  );
});

test("a small file that asks for a huge product is refused before it is made", () => {
  const file = loraFile({
    "text_encoder.x.lokr_w1": [1, 1],
    "text_encoder.x.lokr_t2": [1000, 1, 3, 3],
    "text_encoder.x.lokr_w2_a": [1000, 8],
    "text_encoder.x.lokr_w2_b": [1, 300_000],
  });
  expect(() => parseLora(file, oneTarget(weightTarget("x", [8, 4, 3, 3])))).toThrow(
    expect.objectContaining({ code: "LORA_MALFORMED", message: expect.stringMatching(/300000/) }),
  );
});

test("a file for another model is one error", () => {
  const file = loraFile({ "lora_unet_joint_blocks_0_x.lora_up.weight": [4, 4] });
  expect(() => parseLora(file, TINY)).toThrow(
    expect.objectContaining({
      code: "LORA_UNSUPPORTED",
      message: expect.stringMatching(/lora_unet_joint_blocks_0_x/),
    }),
  );
  expect(() => parseLora(loraFile({}), TINY)).toThrow(
    expect.objectContaining({ code: "LORA_UNSUPPORTED" }),
  );
});

test("any file gives factors that fit, or one LunaError", () => {
  const suffix = fc.constantFrom(
    ...["lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "lora_A.weight"],
    ...["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"],
    ...["lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2"],
    ...["lora_B.weight", "lora.up.weight", "bogus", ""],
  );
  const layer = fc.constantFrom("text_encoder.x", "text_encoder.y", "unet.z", "", "lora_te_x");
  const shape = fc.array(fc.constantFrom(0, 1, 2, 3, 4, 6, 8), { maxLength: 5 });
  const key = fc.oneof(
    fc.tuple(layer, suffix).map((parts) => parts.join(".")),
    fc.string(),
  );
  const targets = [weightTarget("x", [6, 4]), weightTarget("y", [8, 4, 3, 3])];
  const model: LoraModel = { text: new Map([["clip-l", targets]]) };
  fc.assert(
    fc.property(fc.dictionary(key, shape, { maxKeys: 8 }), (tensors) => {
      try {
        const parsed = parseLora(loraFile(tensors), model);
        for (const [name, { rank, up, down }] of parsed.text.get("clip-l") ?? []) {
          const target = targets.find((candidate) => candidate.name === name);
          expect(up.length).toBe(rank * (target?.outputs ?? 0));
          expect(down.length).toBe(rank * 4 * (name === "y" ? 9 : 1));
        }
      } catch (error) {
        expect(error).toBeInstanceOf(LunaError);
      }
    }),
    { numRuns: 1000 },
  );
});
