/** Models without weights (closed formulas) and an instance without a disk, for tests of nodes. */
import type {
  LoraRef,
  ModelInfo,
  TextModel,
  UNetFeatures,
  UNetInputs,
  UNetModel,
  VaeModel,
} from "../../src/client/index.ts";
import { LunaError } from "../../src/kernel/index.ts";
import type {
  DaemonStatus,
  FileKind,
  Location,
  NodeServices,
  OpenedCheckpoint,
  OpenRequest,
  SavedFile,
} from "../../src/nodes/index.ts";
import { type FloatTensor, floatTensor } from "../../src/tensor/index.ts";
import type { ClipTokenizer } from "../../src/text/index.ts";

const WIDTH = 8;
/** Keeps decoded pictures off black and white. */
const FLATNESS = 0.05;

export function fakeInfo(id: string, changes: Partial<ModelInfo> = {}): ModelInfo {
  return {
    id,
    family: "sd1",
    prediction: "eps",
    isZeroTerminalSnr: false,
    latentScale: 0.18215,
    dtype: "F16",
    bytes: 3 * 2 ** 20,
    unet: { inChannels: 4, outChannels: 4, contextDim: WIDTH, admChannels: 0, modelChannels: 32 },
    textEncoders: [{ kind: "clip-l", width: WIDTH, layers: 3, projection: 0 }],
    vae: { kind: "kl", latentChannels: 4, downscale: 8, hasEncoder: true, hasDecoder: true },
    ...changes,
  };
}

/** A step as a fake net was asked for it. */
export type FakeCall = UNetInputs & Readonly<{ features: UNetFeatures }>;

/**
 * eps = 0.5 x + sin(mean of context + timestep / 1000) / 10, plus 0.01 a unit of LoRA strength;
 * perturbed attention halves it.
 */
export class FakeUNet implements UNetModel {
  readonly info: ModelInfo;
  readonly loras: readonly LoraRef[];
  readonly features: UNetFeatures;
  readonly calls: FakeCall[];

  constructor(
    info: ModelInfo,
    {
      loras = [],
      features = {},
      calls = [],
    }: Partial<Pick<FakeUNet, "loras" | "features" | "calls">> = {},
  ) {
    this.info = info;
    this.loras = loras;
    this.features = features;
    this.calls = calls;
  }

  async forward(inputs: UNetInputs): Promise<FloatTensor> {
    this.calls.push({ ...inputs, features: this.features });
    const factor = this.features.pag ? 0.5 : 1;
    const { x, timesteps, context } = inputs;
    const [rows = 1, channels = 1, height = 1, width = 1] = x.shape;
    const outChannels = Math.min(channels, 4);
    const strength = this.loras.reduce((sum, lora) => sum + lora.strengthModel, 0);
    const data = new Float32Array(rows * outChannels * height * width);
    const inRow = channels * height * width;
    const outRow = outChannels * height * width;
    const tokens = context.data.length / rows;
    for (let row = 0; row < rows; row++) {
      const mean =
        context.data.subarray(row * tokens, (row + 1) * tokens).reduce((a, b) => a + b, 0) / tokens;
      const shift = Math.sin(mean + (timesteps[row] ?? 0) / 1000) / 10 + 0.01 * strength;
      for (let i = 0; i < outRow; i++) {
        data[row * outRow + i] = factor * (0.5 * (x.data[row * inRow + i] ?? 0) + shift);
      }
    }
    return floatTensor([rows, outChannels, height, width], data);
  }

  withLora(lora: LoraRef): FakeUNet {
    const { info, features, calls } = this;
    return new FakeUNet(info, { loras: [...this.loras, lora], features, calls });
  }

  withFeatures(features: UNetFeatures): FakeUNet {
    const { info, loras, calls } = this;
    return new FakeUNet(info, { loras, features: { ...this.features, ...features }, calls });
  }
}

/** hidden = sin(id + place + channel + layer) plus the LoRAs' strengths. */
export class FakeText implements TextModel {
  readonly info: ModelInfo;
  readonly loras: readonly LoraRef[];
  readonly calls: Parameters<TextModel["encode"]>[0][];

  constructor(
    info: ModelInfo,
    loras: readonly LoraRef[] = [],
    calls: Parameters<TextModel["encode"]>[0][] = [],
  ) {
    this.info = info;
    this.loras = loras;
    this.calls = calls;
  }

  async encode(inputs: Parameters<TextModel["encode"]>[0]): ReturnType<TextModel["encode"]> {
    this.calls.push(inputs);
    const { tokens, layer } = inputs;
    const strength = this.loras.reduce((sum, lora) => sum + lora.strengthClip, 0);
    const hidden = Float32Array.from({ length: tokens.length * 77 * WIDTH }, (_, i) => {
      const id = tokens[Math.floor(i / (77 * WIDTH))]?.[Math.floor(i / WIDTH) % 77] ?? 0;
      return Math.sin(id + i + layer) + strength;
    });
    const pooled = floatTensor([tokens.length, WIDTH]);
    return {
      hidden: floatTensor([tokens.length, 77, WIDTH], hidden),
      pooled,
      projected: pooled,
    };
  }

  withLora(lora: LoraRef): FakeText {
    return new FakeText(this.info, [...this.loras, lora], this.calls);
  }
}

/** Decodes a cell to 8x8 pixels of its first three channels, encodes the cell's first pixel. */
export class FakeVae implements VaeModel {
  readonly info: ModelInfo;

  constructor(info: ModelInfo) {
    this.info = info;
  }

  async decode(latent: FloatTensor): Promise<FloatTensor> {
    const [rows = 1, , height = 1, width = 1] = latent.shape;
    return fill([rows, 3, height * 8, width * 8], ([row, channel, y, x]) => {
      const at = ((row * 4 + channel) * height + (y >> 3)) * width + (x >> 3);
      return Math.tanh(FLATNESS * (latent.data[at] ?? 0));
    });
  }

  async encode(image: FloatTensor): Promise<FloatTensor> {
    const [rows = 1, , height = 1, width = 1] = image.shape;
    return fill([rows, 4, height >> 3, width >> 3], ([row, channel, y, x]) => {
      const at = ((row * 3 + Math.min(channel, 2)) * height + y * 8) * width + x * 8;
      return Math.atanh(Math.min(Math.max(image.data[at] ?? 0, -0.99), 0.99)) / FLATNESS;
    });
  }
}

type Four = readonly [number, number, number, number];

function fill(shape: Four, value: (at: Four) => number): FloatTensor {
  const [, channels, height, width] = shape;
  const count = shape[0] * channels * height * width;
  const data = Float32Array.from({ length: count }, (_, i) => {
    const y = Math.floor(i / width) % height;
    const plane = Math.floor(i / (width * height));
    return value([Math.floor(plane / channels), plane % channels, y, i % width]);
  });
  return floatTensor(shape, data);
}

export type FakeOptions = Readonly<{
  isDaemonRunning?: boolean;
  info?: Partial<ModelInfo>;
  checkpoints?: readonly string[];
  /** A file of the UNet alone. */
  hasOnlyUNet?: boolean;
  loras?: readonly string[];
  inputs?: ReadonlyMap<string, Uint8Array>;
}>;

/** An instance in memory. What nodes did lies in its fields. */
export class FakeServices implements NodeServices {
  readonly lines: string[] = [];
  readonly files = new Map<string, Uint8Array>();
  readonly opened: OpenRequest[] = [];
  readonly unet: FakeUNet;
  readonly text: FakeText;
  readonly tokenizer: ClipTokenizer = {
    tokenize: (text) => Array.from(text, (character) => character.codePointAt(0) ?? 0),
  };
  readonly #options: FakeOptions;
  readonly #info: ModelInfo;

  constructor(options: FakeOptions = {}) {
    this.#options = options;
    this.#info = fakeInfo("checkpoints/tiny.safetensors", options.info);
    this.unet = new FakeUNet(this.#info);
    this.text = new FakeText(this.#info);
  }

  async openCheckpoint(request: OpenRequest): Promise<OpenedCheckpoint> {
    this.opened.push(request);
    const isRunning = this.#options.isDaemonRunning ?? true;
    if (request.mode === "force_daemon" && !isRunning) {
      throw new LunaError("DAEMON_NOT_RUNNING", "Daemon is not running. Start it: luna serve");
    }
    const location: Location = isRunning && request.mode !== "force_local" ? "daemon" : "local";
    if (request.kind === "controlnet") {
      const net = { kind: "controlnet", hintChannels: 3, hintMultiple: 8, unionTypes: 0 } as const;
      return { control: { id: `controlnet/${request.name}`, ...net }, location, status: "" };
    }
    if (this.#options.hasOnlyUNet === true) return { model: this.unet, location, status: "" };
    const vae = new FakeVae(this.#info);
    return { model: this.unet, clip: this.text, vae, location, status: `tiny on ${location}` };
  }

  async daemonStatus(): Promise<DaemonStatus> {
    const isRunning = this.#options.isDaemonRunning ?? true;
    const models = [{ name: this.#info.id, bytes: this.#info.bytes }];
    const loras = [...(this.#options.loras ?? [])];
    return { isRunning, address: "127.0.0.1:19283", models, loras };
  }

  async listFiles(kind: FileKind): Promise<readonly string[]> {
    if (kind === "loras") return this.#options.loras ?? [];
    return this.#options.checkpoints ?? ["tiny.safetensors"];
  }

  async listInputImages(): Promise<readonly string[]> {
    return [...(this.#options.inputs?.keys() ?? [])];
  }

  async readInputImage(name: string): Promise<Uint8Array | undefined> {
    return this.#options.inputs?.get(name);
  }

  async listOutputs(type: SavedFile["type"], subfolder: string): Promise<readonly string[]> {
    const folder = `${type}/${subfolder}/`;
    return [...this.files.keys()]
      .filter((path) => path.startsWith(folder))
      .map((path) => path.slice(folder.length));
  }

  async writeOutput({ type, subfolder, filename }: SavedFile, bytes: Uint8Array): Promise<boolean> {
    const path = `${type}/${subfolder}/${filename}`;
    if (this.files.has(path)) return false;
    this.files.set(path, bytes);
    return true;
  }

  async loadEmbedding(): Promise<FloatTensor | undefined> {
    return undefined;
  }

  log(line: string): void {
    this.lines.push(line);
  }

  now(): number {
    return Date.UTC(2030, 0, 2, 12);
  }
}
