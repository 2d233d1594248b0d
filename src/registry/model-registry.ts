/**
 * Models by name: what lies in the model folders, what a file holds, and which of its nets are
 * loaded. The registry decides; the loader it is given (the engine) does the loading.
 */
import { isAbsolute } from "node:path";
import { LRUCache } from "lru-cache";
import {
  type Checkpoint,
  type ComponentName,
  componentsOf,
  openCheckpointFile,
} from "../checkpoint/index.ts";
import { type Logger, LunaError, SILENT_LOGGER } from "../kernel/index.ts";
import { estimateBytes } from "./estimate-bytes.ts";
import { Fingerprints } from "./fingerprints.ts";
import { HEADERS_MAX } from "./limits.ts";
import { type Fingerprint, type ModelFile, ModelFiles, readFingerprint } from "./model-files.ts";
import { isModelKind, KIND_ALIASES, type ModelFolders, type ModelKind } from "./model-folders.ts";
import { type Loader, NetPool, type NetStatus } from "./net-pool.ts";

export type ModelRegistryOptions = Readonly<{
  folders: ModelFolders;
  loader: Loader;
  /** Budget of all loaded nets. */
  bytesMax: number;
  logger?: Logger;
  nowMs?: () => number;
  /** For tests. */
  openCheckpoint?: (path: string) => Promise<Checkpoint>;
}>;

export type Model = Readonly<{ file: ModelFile; checkpoint: Checkpoint; bytes: number }>;

/** A loaded net that stays until it is released. */
export type Lease = Readonly<{
  /** The file's id. */
  model: string;
  path: string;
  component: ComponentName;
  checkpoint: Checkpoint;
  release: () => void;
}>;

export type ModelStatus = ModelFile &
  Readonly<{ bytes: number; isPinned: boolean; nets: readonly NetStatus[] }>;

export type LoraFile = Readonly<{
  name: string;
  path: string;
  /** Size and time of change. */
  key: string;
}>;

/** Kinds that hold nets, in the order in which a bare name is looked up. */
const NET_KINDS = [
  "checkpoints",
  "diffusion_models",
  "text_encoders",
  "vae",
  "vae_approx",
  "controlnet",
] as const;

export class ModelRegistry {
  readonly #openCheckpoint: (path: string) => Promise<Checkpoint>;
  readonly #prints: Fingerprints;
  readonly #files: ModelFiles;
  readonly #pool: NetPool;
  readonly #headers = new LRUCache<string, { key: string; checkpoint: Promise<Checkpoint> }>({
    max: HEADERS_MAX,
  });

  constructor(options: ModelRegistryOptions) {
    const { folders, loader, bytesMax } = options;
    const { logger = SILENT_LOGGER, nowMs = () => performance.now() } = options;
    this.#openCheckpoint = options.openCheckpoint ?? openCheckpointFile;
    this.#prints = new Fingerprints(nowMs);
    this.#files = new ModelFiles(folders, nowMs, (path) => this.#prints.read(path));
    this.#pool = new NetPool({ loader, bytesMax, logger });
  }

  /**
   * The file a client means: an id ("checkpoints/a.safetensors"), else a name within `kinds`, with
   * or without extension, or an absolute path below a model folder.
   * Throws MODEL_UNKNOWN, or PATH_REFUSED for anything outside the folders.
   */
  async resolve(reference: string, kinds: readonly ModelKind[] = NET_KINDS): Promise<ModelFile> {
    if (isAbsolute(reference)) return await this.#files.findPath(reference);
    // Ids first: they mean one file, and a step must not list folders for the other kinds.
    const [first = "", ...rest] = reference.replaceAll("\\", "/").split("/");
    const own = KIND_ALIASES[first] ?? first;
    const wanted: [ModelKind, string][] = kinds.map((kind) => [kind, reference]);
    if (isModelKind(own) && rest.length > 0) wanted.unshift([own, rest.join("/")]);
    for (const [kind, name] of wanted) {
      const file = await this.#files.find(kind, name);
      if (file !== undefined) return file;
    }
    const todo = /\.(ckpt|pth?|bin|gguf)$/i.test(reference)
      ? "only .safetensors files are read, convert it"
      : 'check the name with "luna models"';
    throw new LunaError(
      "MODEL_UNKNOWN",
      `No model "${reference}" in the folders ${kinds.join(", ")}: ${todo}.`,
    );
  }

  /** What a model's file holds, from its header; cached until the file changes. */
  async describe(reference: string): Promise<Model> {
    const file = await this.resolve(reference);
    const print = await this.#fingerprint(file);
    return { file, checkpoint: await this.#checkpoint(print), bytes: print.bytes };
  }

  /** Loads a net unless it is loaded, and keeps it loaded until the lease is released. */
  async acquire(reference: string, component: ComponentName): Promise<Lease> {
    const file = await this.resolve(reference);
    const print = await this.#fingerprint(file);
    const checkpoint = await this.#checkpoint(print);
    const components = componentsOf(checkpoint);
    if (!components.includes(component)) {
      throw new LunaError(
        "MODEL_UNKNOWN",
        `${file.id} has no ${component}; it holds ${components.join(", ") || "no nets"}.`,
      );
    }
    const release = await this.#pool.acquire({
      path: print.path,
      component,
      fingerprint: print.key,
      estimateBytes: () => estimateBytes(checkpoint, component),
    });
    return {
      ...{ model: file.id, path: print.path, component, checkpoint },
      release: () => {
        release();
        // For the next step, which would wait for the disk; this one's client has its answer first.
        void this.#prints.read(file.path);
      },
    };
  }

  /** Loads nets ahead of their first use; all of the file's when none are named. */
  async preload(reference: string, components?: readonly ComponentName[]): Promise<void> {
    const wanted = components ?? componentsOf((await this.describe(reference)).checkpoint);
    for (const component of wanted) (await this.acquire(reference, component)).release();
  }

  /** Unloads a model's nets as soon as no run uses them. */
  async unload(reference: string): Promise<void> {
    const { path } = await this.#fingerprint(await this.resolve(reference));
    await this.#pool.unload(path);
  }

  /** Unloads the idle net used longest ago; false if there is none. */
  evictIdle(): Promise<boolean> {
    return this.#pool.evictIdle();
  }

  /** A pinned model's nets are never unloaded to make room. */
  async pin(reference: string): Promise<void> {
    this.#pool.pin((await this.#fingerprint(await this.resolve(reference))).path);
  }

  async unpin(reference: string): Promise<void> {
    this.#pool.unpin((await this.#fingerprint(await this.resolve(reference))).path);
  }

  /** The models on disk, with what is loaded of each. */
  async list(kinds: readonly ModelKind[] = NET_KINDS): Promise<readonly ModelStatus[]> {
    const nets = this.#pool.status();
    const models: ModelStatus[] = [];
    for (const kind of kinds) {
      for (const file of await this.#files.list(kind)) {
        const print = await readFingerprint(file.path);
        if (print === undefined) continue;
        const own = nets.filter(({ path }) => path === print.path);
        const isPinned = this.#pool.isPinned(print.path);
        models.push({ ...file, bytes: print.bytes, isPinned, nets: own });
      }
    }
    return models;
  }

  /** The nets that are loaded or being loaded. */
  loaded(): readonly NetStatus[] {
    return this.#pool.status();
  }

  /** A LoRA by name; undefined if there is none. Throws PATH_REFUSED. */
  async resolveLora(name: string): Promise<LoraFile | undefined> {
    const file = await this.#files.find("loras", name);
    const print = file && (await this.#prints.read(file.path));
    return file && print && { name: file.name, path: print.path, key: print.key };
  }

  async #fingerprint(file: ModelFile): Promise<Fingerprint> {
    const print = await this.#prints.read(file.path);
    if (print !== undefined) return print;
    throw new LunaError("MODEL_UNKNOWN", `${file.id} is not there any more.`);
  }

  #checkpoint({ path, key }: Fingerprint): Promise<Checkpoint> {
    const known = this.#headers.get(path);
    if (known?.key === key) return known.checkpoint;
    const checkpoint = this.#openCheckpoint(path);
    this.#headers.set(path, { key, checkpoint });
    // A file that is still being written may be whole at the next try.
    checkpoint.catch(() => this.#headers.delete(path));
    return checkpoint;
  }
}
