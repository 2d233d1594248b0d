import type { ComponentName } from "../checkpoint/index.ts";
import type { Logger } from "../kernel/index.ts";
import type { Tensor } from "../tensor/index.ts";
import type { DeviceChoice } from "./providers.ts";

export type { ComponentName } from "../checkpoint/index.ts";

/** One adapter as a run uses it: a file the engine reads, or factors the client has sent. */
export type LoraUse = Readonly<{
  source:
    | Readonly<{
        type: "file";
        path: string;
        /** Name the user knows it by, for logs and warnings. */
        name: string;
        /** Size and mtime: a replaced file is another key. */
        key: string;
      }>
    | Readonly<{
        type: "factors";
        /** Content name of the whole set. */
        digest: string;
        /** `${layer}.PART`, parts as docs/protocol.md says: down, up, bias, gain, diff, ... */
        tensors: ReadonlyMap<string, Tensor>;
      }>;
  strength: number;
}>;

/** One client's part of a batch; axis 0 of every tensor is its own rows. */
export type RunItem = Readonly<{
  /**
   * unet: x [b, c, h, w], timesteps [b] F32, context [b, t, d], y? [b, adm], and control tensors
   *   "control.input.N", "control.middle.0", "control.output.N" [1 or b, c, h, w], and hints of `controls`;
   * clip-*: tokens [n, 77] I64, embeddings? [m, width] with embedding_positions? [m, 2] (row, column);
   * vae-decoder: latent [b, 4, h, w] (unscaled); vae-encoder: image [b, 3, h, w] in -1..1.
   */
  tensors: ReadonlyMap<string, Tensor>;
  /** Content names of some of them: those that come with every step cross to the engine once. */
  digests?: ReadonlyMap<string, string>;
  loras: readonly LoraUse[];
  /** clip-*: which hidden state, counted from the end as ComfyUI does (-1 last, -2 clip skip). */
  layer?: number;
  /** clip-*: apply the final layer norm to that hidden state. */
  isLayerNormed?: boolean;
  /** vae-*: work in tiles of `size` latent cells that share `overlap` cells with their neighbours. */
  tile?: Readonly<{ size: number; overlap: number }>;
  /** unet: what ComfyUI's nodes of these names do inside the net. */
  features?: UNetFeatures;
  /** unet: control nets whose residuals are added, in this order. */
  controls?: readonly ControlUse[];
}>;

/** A control net as an item uses it. */
export type ControlUse = Readonly<{
  /** File whose nets "control-hint" and, of a ControlNet, "control-net" are loaded. */
  path: string;
  /** Name of the item's tensor with the hint [n, channels, pixels, pixels]. */
  slot: string;
  strength: number;
  /** Which kind of hint a Union net gets. */
  type?: number;
  /** The residuals' means over the picture act, as a "shuffle" ControlNet was trained. */
  isPooled?: boolean;
  /** For each row of x its row of the hint, -1 where the net does not act. */
  hintRows: readonly number[];
}>;

export type UNetFeatures = Readonly<{
  freeu?: Readonly<{ version: 1 | 2; b1: number; b2: number; s1: number; s2: number }>;
  /** Self-attention gives its values as they are in these blocks: "middle.0", "input.4", "output.3.1". */
  pag?: Readonly<{ blocks: readonly string[] }>;
}>;

/**
 * unet: "out" [b, c, h, w]; clip: "hidden" [n, 77, width], "pooled" [n, width] (last layer, final
 * norm, at the first end-of-text token), "projected" [n, projection] where the encoder has one;
 * vae: "image" [b, 3, h, w] or "latent" (the mode) [b, 4, h, w].
 */
export type RunOutput = Readonly<{
  tensors: ReadonlyMap<string, Tensor>;
  /** LoRA facts a client should hear once: missing file, unmatched keys. */
  warnings: readonly string[];
}>;

export type EngineInfo = Readonly<{
  pid: number;
  /** "cpu", "cuda" or "webgpu". */
  device: string;
  /** ONNX Runtime's name of what serves it. */
  provider: string;
  rssBytes: number;
  /** How often a crash was followed by a new process. */
  restarts: number;
  loaded: readonly Readonly<{ path: string; component: ComponentName; bytes: number }>[];
  loraCache: Readonly<{ entries: number; bytes: number }>;
  /** Sessions with changed weights, beside the loaded ones. */
  overlays: Readonly<{ entries: number; bytes: number }>;
}>;

/** What the daemon asks of a device. Implementations: the supervised child process, a fake for tests. */
export interface Engine {
  /** Devices, each of which has one run under way at a time; 1 when not given. */
  readonly lanes?: number;
  /**
   * Opens one net of a checkpoint file; loading it again is a no-op. Survives engine restarts.
   * The engine reads the header itself, of the very file it maps: a path may be replaced meanwhile.
   * `bytes` is what the weights take while loaded (mapped or private).
   */
  load(path: string, component: ComponentName): Promise<{ bytes: number; ms: number }>;
  unload(path: string, component?: ComponentName): Promise<void>;
  /** One session run for all items, on one of the lanes; `engineMs` is the time spent inside the session. */
  run(
    path: string,
    component: ComponentName,
    items: readonly RunItem[],
    options?: Readonly<{ lane?: number }>,
  ): Promise<{ outputs: readonly RunOutput[]; engineMs: number }>;
  /**
   * Reads adapter files ahead of their first use, while other runs go on. Ends when they are there;
   * throws what is wrong with one, as the run would.
   */
  prepare?(path: string, component: ComponentName, loras: readonly LoraUse[]): Promise<void>;
  info(): Promise<EngineInfo>;
  close(): Promise<void>;
}

/** How an engine is started. */
export type EngineOptions = Readonly<{
  device?: DeviceChoice;
  /** Threads inside an operator; 0 takes the physical cores. */
  threads?: number;
  /** Bytes of parsed LoRAs kept in the engine. */
  loraCacheBytesMax?: number;
  /** Of loaded nets and of the weights that LoRAs change as a whole, together; no limit if not given. */
  memoryBytesMax?: number;
  /** No run counts as hung before so many ms. */
  hangMs?: number;
  /** Which of several devices of a kind, from 0; CUDA only. */
  deviceIndex?: number;
  logger?: Logger;
}>;
