/** Models to measure with: random weights in real layouts, written once into the bench's folder. */
import { open, rename, writeFile } from "node:fs/promises";
import { layerWeights, type UNetConfig, unetLayers } from "../../checkpoint/index.ts";
import {
  elementCount,
  floatTensor,
  fromFloat,
  serializeSafetensors,
  serializeSafetensorsHeader,
} from "../../tensor/index.ts";
import { seeded } from "../acceptance/bench.ts";

const SD1 = { inChannels: 4, outChannels: 4, admChannels: 0, heads: { count: 8 } } as const;

/** Four narrow levels with attention on the lowest: hardly any work at the sizes people use. */
const EMPTY = {
  ...{ inChannels: 4, outChannels: 4, modelChannels: 32, channelMult: [1, 1, 1, 2] },
  ...{ resBlocks: [1, 1, 1, 1], transformerDepth: [0, 0, 0, 1], transformerDepthMiddle: 1 },
  transformerDepthOutput: [1, 1, 0, 0, 0, 0, 0, 0],
} as const;

/** The inputs of SD1.5. */
export const EMPTY_SD15: UNetConfig = {
  ...{ ...EMPTY, contextDim: 768, admChannels: 0, heads: { count: 8 }, isLinearProjection: false },
};

/** The inputs of SDXL. */
export const EMPTY_SDXL: UNetConfig = {
  ...{ ...EMPTY, contextDim: 2048, admChannels: 2816, isLinearProjection: true },
  heads: { channels: 64 },
};

/** The shape of the embedded model's UNet: 15.8 M parameters. */
export const EMBEDDED: UNetConfig = {
  ...{ ...SD1, modelChannels: 32, channelMult: [1, 4, 8], resBlocks: [1, 1, 1], contextDim: 128 },
  ...{ transformerDepth: [0, 1, 1], transformerDepthMiddle: 1, isLinearProjection: false },
  transformerDepthOutput: [1, 1, 1, 1, 0, 0],
};

/** SD1.5 at full width: 859.5 M parameters, 3.4 GB in float32. */
export const FULL_SD15: UNetConfig = {
  ...{ ...SD1, modelChannels: 320, channelMult: [1, 2, 4, 4], resBlocks: [2, 2, 2, 2] },
  ...{ contextDim: 768, transformerDepth: [1, 1, 1, 1, 1, 1, 0, 0], transformerDepthMiddle: 1 },
  ...{ transformerDepthOutput: [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1], isLinearProjection: false },
};

const RANDOM_COUNT = 1 << 20;

/** A UNet alone, in float32; weights scaled by fan-in from one block of random numbers. */
export async function writeUnet(path: string, config: UNetConfig): Promise<void> {
  const shapes = [...layerWeights(unetLayers(config))].map(
    ([name, shape]) => [`model.diffusion_model.${name}`, { dtype: "F32", shape }] as const,
  );
  const random = seeded([RANDOM_COUNT], 1).data;
  const file = await open(`${path}.part`, "w");
  await file.write(serializeSafetensorsHeader(shapes));
  for (const [name, { shape }] of shapes) {
    const data = new Float32Array(elementCount(shape));
    const isVector = shape.length === 1;
    const scale = isVector ? 0.05 : (data.length / (shape[0] ?? 1)) ** -0.5;
    const mean = isVector && name.endsWith(".weight") ? 1 : 0;
    const block = data.subarray(0, RANDOM_COUNT);
    for (let i = 0; i < block.length; i++) block[i] = mean + scale * (random[i] ?? 0);
    for (let at = block.length; at < data.length; at += block.length) {
      data.set(block.subarray(0, data.length - at), at);
    }
    await file.write(new Uint8Array(data.buffer));
  }
  await file.close();
  await rename(`${path}.part`, path);
}

/** A kohya LoRA on all linear layers of the transformers; resolves to its size. */
export async function writeLora(
  path: string,
  config: UNetConfig,
  { rank, seed }: { rank: number; seed: number },
): Promise<number> {
  const tensors = unetLayers(config)
    .filter(({ name, weight }) => weight.length === 2 && name.includes("transformer_blocks"))
    .flatMap(({ name, weight: [outputs = 1, inputs = 1] }) => {
      const key = `lora_unet_${name.replaceAll(".", "_")}`;
      const factor = (shape: number[], scale: number) => {
        const { data } = seeded(shape, seed);
        return fromFloat(
          floatTensor(
            shape,
            data.map((value) => value * scale),
          ),
          "F16",
        );
      };
      return [
        [`${key}.lora_down.weight`, factor([rank, inputs], inputs ** -0.5)],
        [`${key}.lora_up.weight`, factor([outputs, rank], 0.02)],
      ] as const;
    });
  const bytes = serializeSafetensors(new Map(tensors));
  await writeFile(path, bytes);
  return bytes.byteLength;
}
