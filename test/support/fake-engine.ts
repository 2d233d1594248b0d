/**
 * An engine without ONNX Runtime, with shapes as the tiny checkpoints have them and arithmetic in
 * place of nets: a UNet step is out = 0.1 x (1 + sum of LoRA strengths) + 0.001 timestep.
 */
import type {
  ComponentName,
  Engine,
  EngineInfo,
  RunItem,
  RunOutput,
} from "../../src/engine/index.ts";
import { LunaError } from "../../src/kernel/index.ts";
import { type FloatTensor, floatTensor, fromFloat, toFloat } from "../../src/tensor/index.ts";

const WIDTH = 8;
const CELL = 8;

function input(item: RunItem, name: string): FloatTensor {
  const tensor = item.tensors.get(name);
  if (tensor !== undefined) return toFloat(tensor);
  throw new LunaError("TENSOR_MALFORMED", `The request has no tensor "${name}".`);
}

function fill(shape: readonly number[], value: (index: number) => number): FloatTensor {
  const tensor = floatTensor(shape);
  for (let i = 0; i < tensor.data.length; i++) tensor.data[i] = value(i);
  return tensor;
}

function forward(component: ComponentName, item: RunItem): Record<string, FloatTensor> {
  const factor = item.loras.reduce((sum, { strength }) => sum + strength, 1);
  switch (component) {
    case "unet": {
      const x = input(item, "x");
      const timesteps = input(item, "timesteps").data;
      const step = x.data.length / timesteps.length;
      return {
        out: fill(
          x.shape,
          (i) => 0.1 * (x.data[i] ?? 0) * factor + 0.001 * (timesteps[Math.floor(i / step)] ?? 0),
        ),
      };
    }
    case "vae-decoder": {
      const [rows = 0, , height = 0, width = 0] = input(item, "latent").shape;
      return { image: fill([rows, 3, height * CELL, width * CELL], (i) => (i % 3) - 1) };
    }
    case "vae-encoder": {
      const [rows = 0, , height = 0, width = 0] = input(item, "image").shape;
      return { latent: fill([rows, 4, height / CELL, width / CELL], (i) => i % 4) };
    }
    default: {
      const [rows = 0, time = 0] = input(item, "tokens").shape;
      return {
        hidden: fill([rows, time, WIDTH], (i) => 0.01 * (i % WIDTH) * factor),
        pooled: fill([rows, WIDTH], (i) => i % WIDTH),
      };
    }
  }
}

export class FakeEngine implements Engine {
  readonly #loaded = new Map<string, { path: string; component: ComponentName; bytes: number }>();
  #isClosed = false;

  async load(path: string, component: ComponentName): Promise<{ bytes: number; ms: number }> {
    this.#assertOpen();
    this.#loaded.set(`${component}\n${path}`, { path, component, bytes: 1000 });
    return { bytes: 1000, ms: 1 };
  }

  async unload(path: string, component?: ComponentName): Promise<void> {
    this.#assertOpen();
    for (const [key, net] of this.#loaded) {
      if (net.path !== path) continue;
      if (component === undefined || component === net.component) this.#loaded.delete(key);
    }
  }

  async run(
    path: string,
    component: ComponentName,
    items: readonly RunItem[],
  ): Promise<{ outputs: readonly RunOutput[]; engineMs: number }> {
    this.#assertOpen();
    if (!this.#loaded.has(`${component}\n${path}`)) {
      throw new LunaError("MODEL_UNKNOWN", `${component} of ${path} is not loaded.`);
    }
    const outputs = items.map((item) => {
      const tensors = Object.entries(forward(component, item));
      return {
        tensors: new Map(tensors.map(([name, tensor]) => [name, fromFloat(tensor)])),
        warnings: [],
      };
    });
    return { outputs, engineMs: 0 };
  }

  async info(): Promise<EngineInfo> {
    return {
      pid: process.pid,
      device: "fake",
      provider: "fake",
      rssBytes: process.memoryUsage.rss(),
      restarts: 0,
      loaded: [...this.#loaded.values()],
      loraCache: { entries: 0, bytes: 0 },
      overlays: { entries: 0, bytes: 0 },
    };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
  }

  #assertOpen(): void {
    if (this.#isClosed) throw new LunaError("SHUTTING_DOWN", "The engine is shutting down.");
  }
}
