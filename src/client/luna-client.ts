import type { DaemonStatus, ModelList } from "../protocol/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { DaemonClip } from "./daemon-clip.ts";
import { DaemonModel } from "./daemon-model.ts";
import { DaemonVae } from "./daemon-vae.ts";
import { LunaLink } from "./luna-link.ts";
import type { Peer } from "./peer.ts";
import type { StepLog } from "./step-log.ts";
import type { ModelInfo } from "./types.ts";
import { uploadModel } from "./upload-model.ts";

/** A model by its name, as the daemon lists it, or by a path below its model folders. */
export type ModelPlace = Readonly<{ name: string } | { path: string }>;

/** The parts of a checkpoint as proxies; a part the file lacks is undefined. */
export type ServedCheckpoint = Readonly<{
  info: ModelInfo;
  model: DaemonModel | undefined;
  clip: DaemonClip | undefined;
  vae: DaemonVae | undefined;
}>;

/** Everything a program can ask of a daemon, or of the engine in its own process. */
export class LunaClient {
  readonly #link: LunaLink;
  readonly #isDaemon: () => boolean;

  constructor(peer: Peer, options: { isDaemon: () => boolean; say?: (line: string) => void }) {
    this.#link = new LunaLink(peer, options.say ?? (() => undefined));
    this.#isDaemon = options.isDaemon;
  }

  /** False when the models are computed by this process's own engine. */
  get isDaemon(): boolean {
    return this.#isDaemon();
  }

  /** Timings of the latest UNet steps of all models of this client. */
  get steps(): StepLog {
    return this.#link.steps;
  }

  /** Reads a checkpoint's header and names its parts; weights load at first use. */
  async registerModelByPath(place: ModelPlace): Promise<ServedCheckpoint> {
    const { data } = await this.#link.peer.request({ op: "register_model_by_path", ...place });
    return this.#parts(data.model);
  }

  /** As `registerModelByPath`, and loads every part the file has. */
  async registerCheckpoint(place: ModelPlace): Promise<ServedCheckpoint> {
    const { data } = await this.#link.peer.request({ op: "register_checkpoint", ...place });
    return this.#parts(data.model);
  }

  /** Sends the weights of a UNet, in LDM or diffusers naming; the daemon keeps them on its disk. */
  async registerModel(tensors: Iterable<readonly [string, Tensor]>): Promise<ServedCheckpoint> {
    return this.#parts(await uploadModel(this.#link.peer, tensors));
  }

  /** LoRA factors by `unet.<layer>.down` and so on; use the digest as a LoraRef's name. */
  putLora(factors: ReadonlyMap<string, Tensor>): Promise<string> {
    return this.#link.putLora(factors);
  }

  async list(): Promise<ModelList> {
    return (await this.#link.peer.request({ op: "list" })).data;
  }

  async status(): Promise<DaemonStatus> {
    return (await this.#link.peer.request({ op: "status" })).data.status;
  }

  async preload(model: string): Promise<ModelInfo> {
    return (await this.#link.peer.request({ op: "preload", model })).data.model;
  }

  async unload(model: string): Promise<void> {
    await this.#link.peer.request({ op: "unload", model });
  }

  async pin(model: string): Promise<void> {
    await this.#link.peer.request({ op: "pin", model });
  }

  async unpin(model: string): Promise<void> {
    await this.#link.peer.request({ op: "unpin", model });
  }

  /** Round trip in ms. */
  async ping(): Promise<number> {
    return (await this.#link.peer.request({ op: "ping" })).totalMs;
  }

  close(): Promise<void> {
    return this.#link.peer.close();
  }

  #parts(info: ModelInfo): ServedCheckpoint {
    return {
      info,
      model: info.unet ? new DaemonModel(this.#link, info) : undefined,
      clip: info.textEncoders.length > 0 ? new DaemonClip(this.#link, info) : undefined,
      vae: info.vae ? new DaemonVae(this.#link, info) : undefined,
    };
  }
}
