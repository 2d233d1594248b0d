/** From settings to engines: which devices, with how many threads, whose shares. */
import {
  type DeviceChoice,
  type Engine,
  type EngineOptions,
  EnginePool,
  startEngine,
} from "./engine/index.ts";
import { type Config, LunaError } from "./kernel/index.ts";

const DEVICES: readonly string[] = ["auto", "cpu", "cuda", "webgpu"];

export type Device = Readonly<{
  device: DeviceChoice;
  /** Of a CPU engine. */
  threads?: number;
  /** Of several CUDA devices, which. */
  deviceIndex?: number;
}>;

/**
 * "cuda:0,cuda:1" are two devices, "cpu:1,cpu:1" two CPU engines of one thread each. Throws
 * CONFIG_INVALID for a device there is none of.
 */
export function parseDevices(text: string): readonly Device[] {
  return text.split(",").map((part) => {
    const [, name = "", number] = /^([a-z]+)(?::(\d{1,3}))?$/.exec(part.trim()) ?? [];
    if (!DEVICES.includes(name)) {
      const known = `${DEVICES.join(", ")}, cpu:THREADS or cuda:INDEX, several with commas`;
      throw new LunaError("CONFIG_INVALID", `--device "${part}": choose ${known}.`);
    }
    const device = name as DeviceChoice; // One of the list.
    if (number === undefined) return { device };
    return name === "cpu"
      ? { device, threads: Number(number) }
      : { device, deviceIndex: Number(number) };
  });
}

/** The first of the devices. */
export const deviceOf = (config: Config): DeviceChoice =>
  parseDevices(config.device)[0]?.device ?? "auto";

/** "ComfyUI=4" -> a share of four. Throws CONFIG_INVALID. */
export function parseClientWeights(texts: readonly string[]): ReadonlyMap<string, number> {
  return new Map(
    texts.map((text) => {
      const at = text.lastIndexOf("=");
      const weight = Number(text.slice(at + 1));
      if (at > 0 && weight > 0 && weight <= 1000) return [text.slice(0, at), weight] as const;
      throw new LunaError(
        "CONFIG_INVALID",
        `--client-weights "${text}": write NAME=1 to NAME=1000.`,
      );
    }),
  );
}

/** One engine process a device. */
export async function startEngines(config: Config, shared: EngineOptions): Promise<Engine> {
  const parsed = parseDevices(config.device);
  const { memoryBytesMax } = shared;
  const devices = parsed.map((device) => ({
    ...shared,
    // Each engine holds every model.
    ...(memoryBytesMax === undefined ? {} : { memoryBytesMax: memoryBytesMax / parsed.length }),
    ...(config.threads > 0 ? { threads: config.threads } : {}),
    ...device,
  }));
  const [only, ...others] = devices;
  if (others.length === 0) return await startEngine(only);
  const starts = devices.map((options) => startEngine(options));
  const settled = await Promise.allSettled(starts);
  const failed = settled.find((start) => start.status === "rejected");
  if (failed === undefined) return new EnginePool(await Promise.all(starts));
  for (const start of settled) if (start.status === "fulfilled") await start.value.close();
  throw failed.reason;
}
