/** A daemon with a UNet of four narrow levels and control nets of every kind beside it. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ControlConfig } from "../../src/checkpoint/index.ts";
import type { Control } from "../../src/client/index.ts";
import { type FloatTensor, floatTensor, serializeSafetensors } from "../../src/tensor/index.ts";
import { type RealDaemon, startRealDaemon } from "./real-daemon.ts";
import { seededValues } from "./seeded.ts";
import {
  ADAPTER,
  CONTROL_NET,
  controlledUNetTensors,
  controlTensors,
  UNION_NET,
} from "./tiny-control.ts";

type Net = Readonly<{ config: ControlConfig; seed: number; type?: number }>;

/** "auto" is the Union net that is not told the kind of its hint. */
const NETS: Readonly<Record<string, Net>> = {
  canny: { config: CONTROL_NET, seed: 2 },
  diffusers: { config: CONTROL_NET, seed: 3 },
  union: { config: UNION_NET, seed: 4, type: 2 },
  auto: { config: UNION_NET, seed: 4 },
  adapter: { config: ADAPTER, seed: 5 },
  t2i_shuffle: { config: CONTROL_NET, seed: 2 },
};
const FILES: Readonly<Record<string, Parameters<typeof controlTensors>>> = {
  canny: [CONTROL_NET, { seed: 2, prefix: "control_model." }],
  diffusers: [CONTROL_NET, { seed: 3, isDiffusers: true }],
  union: [UNION_NET, { seed: 4, isDiffusers: true }],
  adapter: [ADAPTER, { seed: 5, isDiffusers: true }],
  t2i_shuffle: [CONTROL_NET, { seed: 2 }],
};
export const controlId = (name: string) =>
  `controlnet/${name === "auto" ? "union" : name}.safetensors`;

export function netOf(name: string): Net {
  const net = NETS[name];
  if (net === undefined) throw new Error(`No control net ${name}.`);
  return net;
}

export const WIDE = "diffusion_models/wide.safetensors";

export async function startControlDaemon(): Promise<RealDaemon> {
  // Not measured: rows of several clients are to meet in one run.
  const daemon = await startRealDaemon({ batchRows: "16" });
  for (const folder of ["diffusion_models", "controlnet"]) await mkdir(join(daemon.folder, folder));
  await writeFile(join(daemon.folder, WIDE), serializeSafetensors(controlledUNetTensors()));
  for (const [name, options] of Object.entries(FILES)) {
    const path = join(daemon.folder, controlId(name));
    await writeFile(path, serializeSafetensors(controlTensors(...options)));
  }
  return daemon;
}

export const seeded = (name: string, shape: readonly number[], scale = 1): FloatTensor =>
  floatTensor(
    shape,
    seededValues(
      name,
      shape.reduce((a, b) => a * b, 1),
      scale,
    ),
  );

/** Residuals by name as a client sends them. */
export function controlOf(all: ReadonlyMap<string, FloatTensor>): Control {
  const list = (side: string) => {
    const found: (FloatTensor | undefined)[] = [];
    for (const [name, tensor] of all) {
      const [, own, index] = name.split(".");
      if (own === side) found[Number(index)] = tensor;
    }
    return Array.from(found);
  };
  return { input: list("input"), middle: list("middle"), output: list("output") };
}

/** Row i of each residual times scale i. */
export const scaled = (all: ReadonlyMap<string, FloatTensor>, scales: readonly number[]) =>
  new Map(
    Array.from(all, ([name, { shape, data }]) => {
      const row = data.length / (shape[0] ?? 1);
      const values = data.map((value, i) => value * (scales[Math.floor(i / row)] ?? 0));
      return [name, floatTensor(shape, values)] as const;
    }),
  );

export function sum(maps: readonly ReadonlyMap<string, FloatTensor>[]): Map<string, FloatTensor> {
  const result = new Map<string, FloatTensor>();
  for (const [name, { shape, data }] of maps.flatMap((each) => [...each])) {
    const known = result.get(name);
    const values = data.map((value, i) => value + (known?.data[i] ?? 0));
    result.set(name, floatTensor(shape, values));
  }
  return result;
}
