import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { unetDiffusersNames, vaeDiffusersNames } from "./diffusers-names.ts";
import { layerWeights } from "./layer.ts";
import type { UNetConfig, VaeConfig } from "./types.ts";
import { unetLayers } from "./unet-layers.ts";
import { vaeLayers } from "./vae-layers.ts";

/** Made from ComfyUI's own models and name maps by test/reference/checkpoint.py. */
type Golden = Readonly<{ count: number; sha256: string; lines?: readonly string[] }>;
const goldens: {
  unet: Record<string, Golden & { config: UNetConfig }>;
  vae: Record<string, Golden & { config: VaeConfig }>;
} = JSON.parse(
  readFileSync(
    new URL("../../test/fixtures/goldens/checkpoint-names.json", import.meta.url),
    "utf8",
  ),
);

function nameLines(
  names: ReadonlyMap<string, string>,
  weights: ReadonlyMap<string, readonly number[]>,
): string[] {
  return [...names]
    .flatMap(([diffusers, name]) =>
      ["weight", "bias"].flatMap((kind) => {
        const shape = weights.get(`${name}.${kind}`);
        return shape === undefined ? [] : `${diffusers}.${kind} ${name}.${kind} ${shape.join("x")}`;
      }),
    )
    .sort();
}

function expectGolden(lines: readonly string[], golden: Golden): void {
  if (golden.lines !== undefined) expect(lines).toEqual(golden.lines);
  expect(lines.length).toBe(golden.count);
  expect(createHash("sha256").update(lines.join("\n")).digest("hex")).toBe(golden.sha256);
}

test.each(Object.entries(goldens.unet))("UNet layers of %s", (_, golden) => {
  const weights = layerWeights(unetLayers(golden.config));
  expectGolden(nameLines(unetDiffusersNames(golden.config), weights), golden);
});

test.each(Object.entries(goldens.vae))("VAE layers of %s", (_, golden) => {
  const weights = layerWeights(vaeLayers(golden.config));
  expectGolden(nameLines(vaeDiffusersNames(golden.config), weights), golden);
});
