/** A ControlNet for the embedded model: its own encoder, and seeded numbers where the hint comes in and goes out. */
import { readFile, writeFile } from "node:fs/promises";
import {
  fromFloat,
  parseSafetensors,
  serializeSafetensors,
  type Tensor,
} from "../../src/tensor/index.ts";
import { seededValues } from "./seeded.ts";

const UNET = "model.diffusion_model.";
/** Channels of the hint's convolutions, from the picture on; the last is the UNet's own. */
const HINT = [3, 16, 16, 32, 32, 96, 96, 256] as const;
/** What an untrained net adds must not drown the picture. */
const SCALE = 0.02;

export async function writeEmojiControl(checkpoint: string, path: string): Promise<void> {
  const { tensors } = parseSafetensors(await readFile(checkpoint));
  const control = new Map<string, Tensor>();
  for (const [name, tensor] of tensors) {
    if (/^model\.diffusion_model\.(input_blocks|middle_block|time_embed)\./.test(name)) {
      control.set(name.slice(UNET.length), tensor);
    }
  }
  const put = (name: string, shape: readonly number[]) => {
    const count = shape.reduce((product, axis) => product * axis, 1);
    control.set(name, fromFloat({ shape, data: seededValues(name, count, SCALE) }, "F16"));
  };
  const putConv = (name: string, [to, from]: readonly [number, number], kernel: number) => {
    put(`${name}.weight`, [to, from, kernel, kernel]);
    put(`${name}.bias`, [to]);
  };
  const widths = outputsOf(control);
  const sizes = [...HINT, widths[0] ?? 0];
  for (const [index, from] of HINT.entries()) {
    putConv(`input_hint_block.${2 * index}`, [sizes[index + 1] ?? 0, from], 3);
  }
  for (const [index, width] of widths.entries())
    putConv(`zero_convs.${index}.0`, [width, width], 1);
  const last = widths.at(-1) ?? 0;
  putConv("middle_block_out.0", [last, last], 1);
  await writeFile(path, serializeSafetensors(control));
}

/** Channels that each of the encoder's blocks gives. */
function outputsOf(control: ReadonlyMap<string, Tensor>): number[] {
  const widths: number[] = [];
  for (;;) {
    const block = `input_blocks.${widths.length}.0`;
    const names = [`${block}.out_layers.3.weight`, `${block}.op.weight`, `${block}.weight`];
    const width = names.map((name) => control.get(name)?.shape[0]).find(Boolean);
    if (width === undefined) return widths;
    widths.push(width);
  }
}
