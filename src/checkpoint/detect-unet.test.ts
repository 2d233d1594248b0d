import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { SafetensorsHeader } from "../tensor/index.ts";
import { unetDiffusersNames } from "./diffusers-names.ts";
import { layerWeights } from "./layer.ts";
import { openCheckpoint } from "./open-checkpoint.ts";
import type { Family, UNetConfig } from "./types.ts";
import { unetLayers } from "./unet-layers.ts";

const goldens: { unet: Record<string, { config: UNetConfig }> } = JSON.parse(
  readFileSync(
    new URL("../../test/fixtures/goldens/checkpoint-names.json", import.meta.url),
    "utf8",
  ),
);
const FAMILY: Readonly<Record<string, Family>> = {
  sd15: "sd1",
  "sd15-inpaint": "sd1",
  sd21: "sd2",
  sdxl: "sdxl",
  refiner: "sdxl-refiner",
  "ssd-1b": "sdxl",
  "koala-700m": "sdxl",
  "tiny-sd1": "sd1",
};

/** A header of full size; only names and shapes are read. */
function headerOf(config: UNetConfig, rename: (layer: string) => string): SafetensorsHeader {
  const tensors = new Map(
    [...layerWeights(unetLayers(config))].map(([name, shape]) => {
      const dot = name.lastIndexOf(".");
      const stored = rename(name.slice(0, dot)) + name.slice(dot);
      return [stored, { dtype: "F16", shape, begin: 0, end: 0 }] as const;
    }),
  );
  return { metadata: {}, tensors, dataBegin: 0 };
}

test.each(Object.entries(FAMILY))("the full-size UNet %s is read as %s", async (name, family) => {
  const config = goldens.unet[name]?.config;
  if (config === undefined) throw new Error(`no golden ${name}`);
  const theirs = new Map(
    [...unetDiffusersNames(config)].map(([diffusers, layer]) => [layer, diffusers]),
  );
  const headers = [
    headerOf(config, (layer) => `model.diffusion_model.${layer}`),
    headerOf(config, (layer) => theirs.get(layer) ?? ""),
  ];
  for (const header of headers) {
    const checkpoint = await openCheckpoint(header);
    expect(checkpoint.family).toBe(family);
    expect(checkpoint.unet?.config).toEqual(config);
  }
});
