/** What nodes need of the program they run in; the CLI and the instance server implement it. */
import type { ModelInfo, TextModel, UNetModel, VaeModel } from "../client/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import type { ClipTokenizer, EncoderKind } from "../text/index.ts";
import type { ControlInfo, Location } from "./values.ts";

/** Model folders, named as ComfyUI names them. */
export type FileKind =
  | "checkpoints"
  | "diffusion_models"
  | "text_encoders"
  | "vae"
  | "vae_approx"
  | "loras"
  | "embeddings"
  | "controlnet";

/** auto: the daemon where one runs, else this process; the others insist. */
export type DaemonMode = "auto" | "force_daemon" | "force_local";

export type CheckpointPart = "model" | "clip" | "vae" | "control";

export type OpenRequest = Readonly<{
  kind: FileKind;
  /** Relative to the kind's folders. */
  name: string;
  mode: DaemonMode;
  parts: readonly CheckpointPart[];
}>;

/** The parts that the file has. Parts that were not asked for may be left out. */
export type OpenedCheckpoint = Readonly<{
  model?: UNetModel;
  clip?: TextModel;
  vae?: VaeModel;
  /** A control net: the UNet's side runs it by its id. */
  control?: ControlInfo;
  location: Location;
  /** One line for people: what is used and why. */
  status: string;
}>;

export type DaemonStatus = Readonly<{
  isRunning: boolean;
  /** Where it was looked for, "127.0.0.1:19283". */
  address: string;
  models: readonly Readonly<{ name: string; bytes: number }>[];
  loras: readonly string[];
}>;

/** A file that a node made, as ComfyUI's clients are told of it. */
export type SavedFile = Readonly<{ filename: string; subfolder: string; type: OutputType }>;
export type OutputType = "output" | "temp";

export interface NodeServices {
  /** Throws MODEL_UNKNOWN for a missing file, DAEMON_NOT_RUNNING for force_daemon without one. */
  openCheckpoint(request: OpenRequest, signal: AbortSignal): Promise<OpenedCheckpoint>;
  daemonStatus(): Promise<DaemonStatus>;
  /** Sorted names relative to the kind's folders, "/" between parts. */
  listFiles(kind: FileKind): Promise<readonly string[]>;
  /** Names in the input folder. */
  listInputImages(): Promise<readonly string[]>;
  /** Bytes of a picture in the input folder ("a.png", "sub/a.png", "a.png [output]"), if it is there. */
  readInputImage(name: string): Promise<Uint8Array | undefined>;
  /** Names in a folder of the outputs; empty when there is no such folder yet. */
  listOutputs(type: OutputType, subfolder: string): Promise<readonly string[]>;
  /** Writes a new file, never over an old one: false when the name is taken. Throws PATH_REFUSED outside the folder. */
  writeOutput(file: SavedFile, bytes: Uint8Array): Promise<boolean>;
  /** Vectors of a textual inversion in the embeddings folders. */
  loadEmbedding(name: string, encoder: EncoderKind): Promise<FloatTensor | undefined>;
  /** CLIP's tokenizer over assets/clip/merges.txt.gz. */
  readonly tokenizer: ClipTokenizer;
  /** Console lines for people. */
  log(line: string): void;
  /** Milliseconds since 1970, for the tokens of file names. */
  now(): number;
}

/** A sampler's estimate of the clean latent [b, 4, h, w], scaled as the UNet sees it. */
export type LatentPreview = Readonly<{ latent: FloatTensor; info: ModelInfo }>;

export type Progress = Readonly<{
  value: number;
  max: number;
  preview?: LatentPreview;
  /** A finished picture for the client itself, a PNG. */
  picture?: Uint8Array;
}>;

/** The services and what belongs to one run of one node. */
export type NodeContext = NodeServices &
  Readonly<{
    nodeId: string;
    signal: AbortSignal;
    progress(progress: Progress): void;
    /** Text chunks for PNG files: the prompt that runs, then the workflow that it came from. */
    metadata(): readonly (readonly [keyword: string, text: string])[];
  }>;
