import { mkdir, readFile, writeFile } from "node:fs/promises";
import type { LunaClient } from "../client/index.ts";
import { LunaError } from "../kernel/index.ts";
import type {
  DaemonStatus,
  FileKind,
  NodeServices,
  OpenedCheckpoint,
  OpenRequest,
  OutputType,
  SavedFile,
} from "../nodes/index.ts";
import type { ModelFiles } from "../registry/index.ts";
import { type FloatTensor, parseSafetensors } from "../tensor/index.ts";
import { type ClipTokenizer, type EncoderKind, selectEmbedding } from "../text/index.ts";
import { type InstanceFolders, namesIn, pathBelow } from "./folders.ts";
import type { ModelClients } from "./model-clients.ts";

export type NodeServicesOptions = Readonly<{
  clients: ModelClients;
  /** This machine's model folders: embeddings, and everything in local mode. */
  files: ModelFiles;
  folders: InstanceFolders;
  tokenizer: ClipTokenizer;
  /** Where the daemon is looked for, for messages. */
  address: string;
  log: (line: string) => void;
}>;

/** What the nodes of an instance run on: model clients, this machine's folders, the tokenizer. */
export class InstanceServices implements NodeServices {
  readonly tokenizer: ClipTokenizer;
  readonly #options: NodeServicesOptions;

  constructor(options: NodeServicesOptions) {
    this.#options = options;
    this.tokenizer = options.tokenizer;
  }

  async openCheckpoint({ kind, name, mode }: OpenRequest): Promise<OpenedCheckpoint> {
    const client = await this.#options.clients.open(mode);
    const { info, model, clip, vae } = await client.registerModelByPath({
      name: `${kind}/${name}`,
    });
    const location = client.isDaemon ? "daemon" : "local";
    const where = client.isDaemon
      ? `the daemon at ${this.#options.address}`
      : "this instance's own engine";
    return {
      location,
      status: `${info.id} (${info.family ?? "part of a model"}, ${info.dtype}) on ${where}`,
      ...(model ? { model } : {}),
      ...(clip ? { clip } : {}),
      ...(vae ? { vae } : {}),
      ...(info.control ? { control: { id: info.id, ...info.control } } : {}),
    };
  }

  async daemonStatus(): Promise<DaemonStatus> {
    const { address } = this.#options;
    const client = await this.#daemon();
    if (client === undefined) return { isRunning: false, address, models: [], loras: [] };
    const [list, status] = [await client.list(), await client.status()];
    const models = status.models
      .filter((model) => model.copies > 0)
      .map(({ id, bytes }) => ({ name: id, bytes }));
    return { isRunning: true, address, models, loras: list.loras };
  }

  async listFiles(kind: FileKind): Promise<readonly string[]> {
    const names = new Set((await this.#options.files.list(kind)).map((file) => file.name));
    const list = await (await this.#daemon())?.list();
    const prefix = `${kind}/`;
    for (const { id } of list?.models ?? [])
      if (id.startsWith(prefix)) names.add(id.slice(prefix.length));
    if (kind === "loras") for (const name of list?.loras ?? []) names.add(name);
    return [...names].sort();
  }

  listInputImages(): Promise<readonly string[]> {
    return namesIn(this.#options.folders.input);
  }

  async readInputImage(name: string): Promise<Uint8Array | undefined> {
    const { folders } = this.#options;
    const match = /^(.*?) \[(input|output|temp)\]$/.exec(name);
    const root =
      match?.[2] === "output"
        ? folders.output
        : match?.[2] === "temp"
          ? folders.temp
          : folders.input;
    try {
      return await readFile(pathBelow(root, match?.[1] ?? name));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  listOutputs(type: OutputType, subfolder: string): Promise<readonly string[]> {
    return namesIn(pathBelow(this.#options.folders[type], subfolder));
  }

  async writeOutput({ type, subfolder, filename }: SavedFile, bytes: Uint8Array): Promise<boolean> {
    const folder = pathBelow(this.#options.folders[type], subfolder);
    await mkdir(folder, { recursive: true });
    try {
      await writeFile(pathBelow(folder, filename), bytes, { flag: "wx" });
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
      throw error;
    }
  }

  async loadEmbedding(name: string, encoder: EncoderKind): Promise<FloatTensor | undefined> {
    const file = await this.#options.files.find("embeddings", name);
    if (file === undefined) return undefined;
    return selectEmbedding(parseSafetensors(await readFile(file.path)), encoder);
  }

  log(line: string): void {
    this.#options.log(line);
  }

  now(): number {
    return Date.now();
  }

  /** A client that may talk to the daemon, if one runs. */
  async #daemon(): Promise<LunaClient | undefined> {
    try {
      return await this.#options.clients.open("force_daemon");
    } catch (error) {
      if (LunaError.isCode(error, "DAEMON_NOT_RUNNING")) return undefined;
      throw error;
    }
  }
}
