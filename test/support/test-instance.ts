/** An instance on a free port, over a daemon of createTestDaemon, and a client that notes everything. */
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { WebSocket } from "ws";
import {
  type Instance,
  type InstanceFolders,
  InstanceServices,
  ModelClients,
  type PreviewMethod,
  startInstance,
} from "../../src/instance/index.ts";
import { NODE_DEFINITIONS, type NodeDefinition } from "../../src/nodes/index.ts";
import { ModelFiles, modelFolders } from "../../src/registry/index.ts";
import { createClipTokenizer } from "../../src/text/index.ts";

export type TestInstanceOptions = Readonly<{
  /** Address of a daemon; by default nobody listens there. */
  daemonUrl?: string;
  concurrency?: number;
  nodes?: readonly NodeDefinition[];
  frontEndRoot?: string;
  previewMethod?: PreviewMethod;
}>;

export type Message = Readonly<{ type: string; data: Record<string, unknown> }>;
export type Frame = Readonly<{ type: "frame"; bytes: Buffer }>;

export class TestInstance {
  readonly instance: Instance;
  readonly folders: InstanceFolders & { root: string };
  readonly lines: string[];
  readonly #sockets: WebSocket[] = [];
  readonly #close: () => Promise<void>;

  constructor(
    instance: Instance,
    own: { folders: TestInstance["folders"]; lines: string[]; close: () => Promise<void> },
  ) {
    this.instance = instance;
    this.folders = own.folders;
    this.lines = own.lines;
    this.#close = own.close;
  }

  fetch(path: string, init: RequestInit = {}): Promise<Response> {
    return fetch(`${this.instance.url}${path}`, init);
  }

  async get(path: string): Promise<Json> {
    return (await this.fetch(path)).json() as Promise<Json>;
  }

  async post(path: string, body: unknown): Promise<{ status: number; json: Json }> {
    const response = await this.fetch(path, {
      method: "POST",
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
    const text = await response.text();
    return { status: response.status, json: text === "" ? {} : JSON.parse(text) };
  }

  async listen(clientId?: string, flags?: Record<string, unknown>): Promise<Listener> {
    const query = clientId === undefined ? "" : `?clientId=${clientId}`;
    const socket = new WebSocket(`${this.instance.url.replace("http", "ws")}/ws${query}`);
    this.#sockets.push(socket);
    const listener = new Listener(socket);
    await new Promise((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("error", reject);
    });
    if (flags) socket.send(JSON.stringify({ type: "feature_flags", data: flags }));
    await listener.until((message) => message.type === (flags ? "feature_flags" : "status"));
    return listener;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.terminate();
    await this.#close();
  }
}

/** Whatever a server answers; a wrong guess fails the test that makes it. */
// biome-ignore lint/suspicious/noExplicitAny: see above.
export type Json = any;

export class Listener {
  readonly socket: WebSocket;
  readonly messages: (Message | Frame)[] = [];
  readonly #waiting = new Set<() => void>();

  constructor(socket: WebSocket) {
    this.socket = socket;
    socket.on("message", (data: Buffer, isBinary: boolean) => {
      this.messages.push(
        isBinary ? { type: "frame", bytes: data } : (JSON.parse(String(data)) as Message),
      );
      for (const check of this.#waiting) check();
    });
  }

  until(fits: (message: Message) => boolean): Promise<Message> {
    return new Promise((resolve) => {
      const check = () => {
        const found = this.messages.find((m) => m.type !== "frame" && fits(m as Message));
        if (found === undefined) return;
        this.#waiting.delete(check);
        resolve(found as Message);
      };
      this.#waiting.add(check);
      check();
    });
  }

  /** The end of a prompt: "executing" with no node. */
  end(promptId: unknown): Promise<Message> {
    return this.until(
      ({ type, data }) =>
        type === "executing" && data["node"] === null && data["prompt_id"] === promptId,
    );
  }

  of(type: string): Record<string, unknown>[] {
    return this.messages.flatMap((m) => (m.type === type && "data" in m ? [m.data] : []));
  }
}

export async function startTestInstance(options: TestInstanceOptions = {}): Promise<TestInstance> {
  const root = await mkdtemp(join(tmpdir(), "luna-instance-"));
  const folders = {
    root,
    input: join(root, "input"),
    output: join(root, "output"),
    temp: join(root, "temp"),
  };
  for (const path of Object.values(folders)) await mkdir(path, { recursive: true });
  const lines: string[] = [];
  const log = (line: string) => void lines.push(line);
  const address = options.daemonUrl ?? "ws://127.0.0.1:9";
  const clients = new ModelClients({
    client: { name: "test", version: "1" },
    url: address,
    graceMs: 100,
    say: log,
  });
  const files = new ModelFiles(modelFolders([join(root, "models")]), () => performance.now());
  const services = new InstanceServices({
    clients,
    files,
    folders,
    tokenizer: createClipTokenizer(() =>
      gunzipSync(
        readFileSync(new URL("../../assets/clip/merges.txt.gz", import.meta.url)),
      ).toString("utf8"),
    ),
    address,
    log,
  });
  const definitions = new Map(NODE_DEFINITIONS);
  for (const node of options.nodes ?? []) definitions.set(node.name, node);
  const instance = await startInstance({
    definitions,
    services,
    files,
    folders,
    userFolder: join(root, "user"),
    host: "127.0.0.1",
    port: 0,
    concurrency: options.concurrency ?? 1,
    version: "0.0.0",
    clients: () => clients.reachable(),
    previewMethod: options.previewMethod ?? "auto",
    ...(options.frontEndRoot === undefined ? {} : { frontEndRoot: options.frontEndRoot }),
  });
  const close = async () => {
    await instance.close();
    await clients.close();
    await rm(root, { recursive: true, force: true });
  };
  return new TestInstance(instance, { folders, lines, close });
}
