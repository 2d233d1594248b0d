import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { loraModel } from "../../test/support/lora-models.ts";
import type { UNetConfig } from "../checkpoint/index.ts";
import { layerResolver } from "./layer-names.ts";

/** Sampled from ComfyUI's key maps by test/reference/lora.py; the last column: more than one axis. */
type Golden = Readonly<{
  text: Record<string, [number, number]>;
  keys: Record<string, readonly [key: string, net: string, layer: string, isMatrix: boolean][]>;
  /** All names of some layers, in the order in which ComfyUI reads them. */
  spellings: Record<string, readonly string[]>;
}>;

function readGolden<T>(name: string): T {
  const url = new URL(`../../test/fixtures/goldens/${name}.json`, import.meta.url);
  return JSON.parse(readFileSync(url, "utf8"));
}

const { unet: unets } = readGolden<{ unet: Record<string, { config: UNetConfig }> }>(
  "checkpoint-names",
);

function openModel(name: string) {
  const golden = readGolden<Golden>(`lora/names-${name}`);
  return { golden, resolve: layerResolver(loraModel(unets[name]?.config, golden.text)) };
}

test.each(["sd15", "sd21", "sdxl", "refiner"])(
  "%s: each spelling means ComfyUI's weight",
  (name) => {
    const { golden, resolve } = openModel(name);
    const wrong: unknown[] = [];
    for (const [prefix, keys] of Object.entries(golden.keys)) {
      for (const [key, net, layer, isMatrix] of keys) {
        const found = resolve(`${prefix}${key}`);
        const expected = isMatrix ? layer : undefined;
        if (found.net !== net || found.target?.name !== expected) wrong.push([prefix, key, found]);
      }
    }
    expect(wrong).toEqual([]);
  },
);

test.each(["sd15", "sd21", "sdxl", "refiner"])("%s: spellings are in ComfyUI's order", (name) => {
  const { golden, resolve } = openModel(name);
  for (const names of Object.values(golden.spellings)) {
    const orders = names.map((each) => resolve(each).order ?? -1);
    expect(orders[0]).toBeGreaterThanOrEqual(0);
    expect(orders).toEqual([...new Set(orders)].sort((a, b) => a - b));
  }
  expect(Object.keys(golden.spellings).length).toBeGreaterThan(8);
});

const QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
const CANONICAL_QUERY = "input_blocks.4.1.transformer_blocks.0.attn1.to_q";

test.each([
  [`unet.${QUERY}`, CANONICAL_QUERY],
  [`base_model.model.${QUERY}`, CANONICAL_QUERY],
  [`base_model.model.unet.${QUERY}`, CANONICAL_QUERY],
  [`unet.base_model.model.${QUERY}`, CANONICAL_QUERY],
  [`model.diffusion_model.${CANONICAL_QUERY}`, CANONICAL_QUERY],
  [CANONICAL_QUERY, CANONICAL_QUERY],
  [QUERY.replace("to_q", "processor.to_out"), CANONICAL_QUERY.replace("to_q", "to_out.0")],
  [`unet.${QUERY.replace("to_q", "to_out.0")}`, CANONICAL_QUERY.replace("to_q", "to_out.0")],
])("PEFT and bare spellings: %s", (key, layer) => {
  const { resolve } = openModel("sdxl");
  expect(resolve(key)).toMatchObject({ net: "unet", target: { name: layer } });
});

test("a text encoder's key finds its encoder, or none", () => {
  const layer = "text_model_encoder_layers_0_mlp_fc1";
  const nets = (text: Record<string, [number, number]>) =>
    ["te", "te1", "te2"].map(
      (prefix) => layerResolver(loraModel(undefined, text))(`lora_${prefix}_${layer}`).net,
    );
  expect(nets({ "clip-l": [64, 1] })).toEqual(["clip-l", "clip-l", undefined]);
  expect(nets({ "clip-h": [64, 1] })).toEqual(["clip-h", "clip-h", undefined]);
  expect(nets({ "clip-g": [64, 1] })).toEqual(["clip-g", undefined, "clip-g"]);
  expect(nets({ "clip-l": [64, 1], "clip-g": [64, 1] })).toEqual(["clip-l", "clip-l", "clip-g"]);
  expect(nets({})).toEqual([undefined, undefined, undefined]);
});

test("a name of no layer belongs to its net all the same", () => {
  const { resolve } = openModel("sd15");
  expect(resolve("lora_unet_joint_blocks_0_attn")).toEqual({ net: "unet" });
  expect(resolve("lora_te_text_model_encoder_layers_99_mlp_fc1")).toEqual({ net: "clip-l" });
  expect(resolve("lora_te2_text_model_encoder_layers_0_mlp_fc1")).toEqual({});
});
