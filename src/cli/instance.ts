import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import {
  CONCURRENCY_MAX,
  InstanceServices,
  isPreviewMethod,
  loadNodePacks,
  ModelClients,
  PREVIEW_METHODS,
  type PreviewMethod,
  startInstance,
} from "../instance/index.ts";
import { type Config, createLogger, LunaError, readConfig } from "../kernel/index.ts";
import { modelFoldersOf } from "../model-paths.ts";
import { NODE_DEFINITIONS } from "../nodes/index.ts";
import { packagedTokenizer } from "../packaged-tokenizer.ts";
import { ModelFiles } from "../registry/index.ts";
import { VERSION } from "../version.ts";
import type { Command, Invocation } from "./command.ts";
import { clientOptions, daemonUrl } from "./daemon-client.ts";

/** ComfyUI's own port: its clients look there. */
const PORT = 8188;
const PORT_MAX = 65_535;

type Values = Invocation["values"];

function wholeNumber(
  values: Values,
  name: string,
  [least, most]: readonly [number, number],
): number {
  const text = String(values[name]);
  const number = Number(text);
  if (/^\d+$/.test(text) && number >= least && number <= most) return number;
  throw new LunaError(
    "CONFIG_INVALID",
    `--${name} "${text}" is not a whole number from ${least} to ${most}.`,
  );
}

function previewMethodOf(values: Values): PreviewMethod {
  const name = values["preview-method"] ?? "auto";
  if (isPreviewMethod(name)) return name;
  throw new LunaError(
    "CONFIG_INVALID",
    `--preview-method "${String(name)}": choose ${PREVIEW_METHODS.join(", ")}.`,
  );
}

/** --port is the instance's here; where the daemon is comes from --daemon, LUNA_* or luna.toml. */
function daemonConfig({ port: _port, ...flags }: Values): Config {
  return readConfig({ flags });
}

async function serve({ values, print, note, signal }: Invocation): Promise<number> {
  const config = daemonConfig(values);
  const port = values["port"] === undefined ? PORT : wholeNumber(values, "port", [0, PORT_MAX]);
  const concurrency =
    values["concurrency"] === undefined
      ? 1
      : wholeNumber(values, "concurrency", [1, CONCURRENCY_MAX]);
  const options = clientOptions(config, `instance-${port}`);
  const logger = createLogger(note, config.logLevel as Parameters<typeof createLogger>[1]);
  const clients = new ModelClients({
    ...options,
    // The engine's room is loaded only when there is no daemon: it is most of a process's memory.
    local: async () => (await import("../daemon.ts")).openLocalPeer(config, options.client, logger),
    say: print,
  });
  const temp = await mkdtemp(join(tmpdir(), "luna-instance-"));
  const folder = (name: string) => resolve(String(values[name] ?? name));
  const folders = { input: folder("input"), output: folder("output"), temp };
  try {
    for (const path of Object.values(folders)) await mkdir(path, { recursive: true });
    const files = new ModelFiles(modelFoldersOf(config), () => performance.now());
    const services = new InstanceServices({
      clients,
      files,
      folders,
      tokenizer: packagedTokenizer(),
      address: daemonUrl(config),
      log: print,
    });
    const root = values["front-end-root"];
    const packs = (values["nodes"] ?? []) as readonly string[]; // A multiple string option.
    const own = (await Promise.all(packs.map(loadNodePacks))).flat();
    if (own.length > 0) print(`[LunaInstance] Nodes: ${own.map(({ name }) => name).join(", ")}`);
    const instance = await startInstance({
      definitions: new Map([
        ...NODE_DEFINITIONS,
        ...own.map((definition) => [definition.name, definition] as const),
      ]),
      services,
      files,
      folders,
      userFolder: folder("user"),
      ...(root === undefined ? {} : { frontEndRoot: resolve(String(root)) }),
      host: "127.0.0.1",
      port,
      allowedHosts: config.allowedHosts,
      concurrency,
      version: VERSION,
      clients: () => clients.reachable(),
      previewMethod: previewMethodOf(values),
      logger,
    });
    print(`[LunaInstance] ComfyUI's API on ${instance.url}`);
    await new Promise<void>((stop) => {
      if (signal.aborted) stop();
      signal.addEventListener("abort", () => stop(), { once: true });
    });
    await instance.close();
  } finally {
    await clients.close();
    await rm(temp, { recursive: true, force: true });
  }
  return 0;
}

export const instance: Command = {
  summary: "Answers ComfyUI's API: runs prompts on the daemon's models until Ctrl-C.",
  usage: "[--port 8188] [--daemon URL] [--front-end-root DIR] [--input DIR] [--output DIR]",
  settings: [
    "daemonUrl",
    "token",
    "tokenFile",
    "models",
    "extraModelPaths",
    "allowedHosts",
    "device",
    "threads",
    "memoryMiB",
    "loraCacheMiB",
    "logLevel",
  ],
  options: {
    port: { type: "string", value: "PORT", doc: `Port of ComfyUI's API (default ${PORT}).` },
    concurrency: {
      type: "string",
      value: "N",
      doc: "Prompts that run at once (default 1, as in ComfyUI).",
    },
    "front-end-root": {
      type: "string",
      value: "DIR",
      doc: 'ComfyUI\'s web front end: folder "static" of the Python package comfyui-frontend-package.',
    },
    input: { type: "string", value: "DIR", doc: "Folder of uploaded pictures (default input)." },
    output: { type: "string", value: "DIR", doc: "Folder for results (default output)." },
    user: { type: "string", value: "DIR", doc: "Settings and workflows (default user)." },
    nodes: {
      type: "string",
      multiple: true,
      value: "DIR",
      doc: "Folder of further nodes, .js files (docs/nodes.md). They run with this process's rights.",
    },
    "preview-method": {
      type: "string",
      value: "NAME",
      doc: `Pictures while sampling: ${PREVIEW_METHODS.join(", ")} (default auto: for clients that ask for them).`,
    },
  },
  run: serve,
};
