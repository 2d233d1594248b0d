/** A daemon with a real engine process over tiny checkpoints, in this process. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type DaemonModel, type LunaClient, openModels } from "../../src/client/index.ts";
import { startDaemon } from "../../src/daemon.ts";
import { createLogger, readConfig } from "../../src/kernel/index.ts";
import { fromFloat, serializeSafetensors, type Tensor } from "../../src/tensor/index.ts";
import { seededValues } from "./seeded.ts";
import { tinyTensors } from "./tiny-checkpoint.ts";

export const TINY = "checkpoints/tiny.safetensors";
export const ANOTHER = "checkpoints/another.safetensors";
type LogEntry = { event: string; [field: string]: unknown };

export type RealDaemon = Readonly<{
  url: string;
  /** Models folder: checkpoints/tiny.safetensors, another.safetensors, loras/. */
  folder: string;
  events: readonly LogEntry[];
  enginePid: () => Promise<number>;
  client: (name: string) => Promise<LunaClient>;
  model: (name: string, checkpoint?: string) => Promise<DaemonModel>;
  close: () => Promise<void>;
}>;

const TARGET = "input_blocks.1.1.transformer_blocks.0.attn1.to_q";
const factor = (name: string, shape: number[], scale: number) =>
  fromFloat({ shape, data: seededValues(name, 32 * 2, scale) });

/** The bytes of a LoRA file for the tiny checkpoints. */
export function tinyLora(scale: number): Uint8Array {
  const name = `lora_unet_${TARGET.replaceAll(".", "_")}`;
  const tensors = new Map([
    [`${name}.lora_down.weight`, factor("down", [2, 32], scale)],
    [`${name}.lora_up.weight`, factor("up", [32, 2], scale)],
  ]);
  return serializeSafetensors(tensors);
}

/** As factors a client sends, different ones for each seed. */
export function tinyFactors(seed: string): ReadonlyMap<string, Tensor> {
  return new Map([
    [`unet.${TARGET}.down`, factor(`down${seed}`, [2, 32], 1)],
    [`unet.${TARGET}.up`, factor(`up${seed}`, [2, 32], 1)],
  ]);
}

/** A models folder with two tiny checkpoints of different weights. */
export async function tinyModels(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "luna-real-"));
  for (const name of ["checkpoints", "loras"]) await mkdir(join(folder, name));
  for (const [name, seed] of [
    ["tiny", 1],
    ["another", 2],
  ] as const) {
    const bytes = serializeSafetensors(tinyTensors({ dtype: "F32", seed }));
    await writeFile(join(folder, "checkpoints", `${name}.safetensors`), bytes);
  }
  return folder;
}

export async function startRealDaemon(
  flags: Readonly<Record<string, string>> = {},
): Promise<RealDaemon> {
  const folder = await tinyModels();
  const events: LogEntry[] = [];
  const logger = createLogger((line) => events.push(JSON.parse(line)), "info");
  const own = { models: [folder], port: "0", socket: "off", device: "cpu", threads: "1" };
  const config = readConfig({ flags: { ...own, ...flags }, environment: {}, folder });
  const daemon = await startDaemon(config, logger);
  const { url } = daemon.listening;
  const clients: LunaClient[] = [];
  const client = async (name: string) => {
    const identity = { name, version: "1" };
    const opened = await openModels({ mode: "force_daemon", url, client: identity });
    clients.push(opened);
    return opened;
  };
  return {
    ...{ url, folder, events, client },
    enginePid: async () => (await daemon.engine.info()).pid,
    async model(name, checkpoint = TINY) {
      const { model } = await (await client(name)).registerModelByPath({ name: checkpoint });
      if (model === undefined) throw new Error("The tiny checkpoint has a UNet.");
      return model;
    },
    async close() {
      for (const each of clients) await each.close();
      await daemon.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
