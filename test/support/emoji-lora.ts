/** A LoRA for the embedded model, of seeded numbers: it changes pictures, towards nothing. */
import { writeFile } from "node:fs/promises";
import { fromFloat, serializeSafetensors, type Tensor } from "../../src/tensor/index.ts";
import { seededValues } from "./seeded.ts";

const RANK = 4;
/** [layer, outputs, inputs] of the UNet; its sizes are in assets/README.md. */
const LAYERS = [
  ["middle_block_1_transformer_blocks_0_attn1_to_q", 256, 256],
  ["middle_block_1_transformer_blocks_0_attn1_to_v", 256, 256],
  ["middle_block_1_transformer_blocks_0_attn2_to_k", 256, 128],
  ["input_blocks_3_1_transformer_blocks_0_attn2_to_v", 128, 128],
] as const;

export async function writeEmojiLora(path: string, seed: string): Promise<void> {
  const tensors = new Map<string, Tensor>();
  for (const [layer, outputs, inputs] of LAYERS) {
    const put = (name: string, shape: readonly number[]) => {
      const count = shape.reduce((a, b) => a * b, 1);
      const data = seededValues(`${seed}.${layer}.${name}`, count, 0.2);
      tensors.set(`lora_unet_${layer}.${name}`, fromFloat({ shape, data }));
    };
    put("lora_down.weight", [RANK, inputs]);
    put("lora_up.weight", [outputs, RANK]);
  }
  await writeFile(path, serializeSafetensors(tensors));
}
