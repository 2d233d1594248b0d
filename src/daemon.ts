/** The composition root: files, engine, registry and server become a daemon, or one instance's own. */
import { tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { openCheckpointFile } from "./checkpoint/index.ts";
import type { Peer } from "./client/index.ts";
import { openCorePeer } from "./core-peer.ts";
import type { Engine } from "./engine/index.ts";
import { parseClientWeights, startEngines } from "./engine-options.ts";
import { type Config, type Logger, SILENT_LOGGER } from "./kernel/index.ts";
import { modelFoldersOf, uploadRoot } from "./model-paths.ts";
import { ModelRegistry } from "./registry/index.ts";
import {
  createDaemonCore,
  type DaemonCore,
  type ListeningDaemon,
  listenDaemon,
  type TryIt,
} from "./server/index.ts";
import { VERSION } from "./version.ts";

const MIB = 2 ** 20;
/** Of the machine's memory, for models. */
const MEMORY_SHARE = 0.75;

export type Daemon = Readonly<{ core: DaemonCore; engine: Engine; close: () => Promise<void> }>;

/** Starts an engine process and wires a daemon around it; nothing listens yet. */
export async function createDaemon(
  config: Config,
  logger: Logger = SILENT_LOGGER,
): Promise<Daemon> {
  const clientWeights = parseClientWeights(config.clientWeights);
  const loraCacheBytesMax = config.loraCacheMiB * MIB;
  const bytesMax =
    config.memoryMiB > 0 ? config.memoryMiB * MIB : Math.floor(totalmem() * MEMORY_SHARE);
  const engine = await startEngines(config, {
    ...{ loraCacheBytesMax, memoryBytesMax: bytesMax, logger },
  });
  const registry = new ModelRegistry({
    folders: modelFoldersOf(config),
    loader: engine,
    openCheckpoint: openCheckpointFile,
    bytesMax,
    logger,
  });
  const core = createDaemonCore({
    registry,
    engine,
    version: VERSION,
    logger,
    uploadFolder: join(uploadRoot(), "diffusion_models"),
    tensorBytesMax: config.tensorStoreMiB * MIB,
    loraBytesMax: loraCacheBytesMax,
    clientWeights,
    ...(config.batchRows > 0 ? { batchRows: config.batchRows } : {}),
    tokens: config.tokens,
  });
  const close = async () => {
    core.close();
    await engine.close();
  };
  return { core, engine, close };
}

function socketPath(config: Config, port: number): string | undefined {
  if (config.socket === "off") return undefined;
  if (config.socket !== "auto") return config.socket;
  // Untested on Windows.
  if (process.platform === "win32") return `\\\\.\\pipe\\luna-${port}`;
  return join(tmpdir(), `luna-${port}.sock`);
}

/** Nodes and tokenizer are loaded for the first picture: most daemons make none themselves. */
function createTryIt(core: DaemonCore, config: Config): TryIt {
  let maker: Promise<TryIt> | undefined;
  return async (request, options) => {
    maker ??= import("./picture-maker.ts").then(({ createPictureMaker }) =>
      createPictureMaker(core, config),
    );
    return (await maker)(request, options);
  };
}

/** A daemon on the network. `close` ends it and its engine. */
export async function startDaemon(
  config: Config,
  logger: Logger = SILENT_LOGGER,
): Promise<Daemon & Readonly<{ listening: ListeningDaemon }>> {
  const daemon = await createDaemon(config, logger);
  try {
    const path = socketPath(config, config.port);
    const listening = await listenDaemon(daemon.core, {
      host: config.host,
      port: config.port,
      allowedHosts: config.allowedHosts,
      tryIt: createTryIt(daemon.core, config),
      ...(path === undefined || (config.port === 0 && config.socket === "auto")
        ? {}
        : { socketPath: path }),
    });
    const close = async () => {
      await listening.close();
      await daemon.engine.close();
    };
    return { ...daemon, listening, close };
  } catch (error) {
    await daemon.close();
    throw error;
  }
}

/** An instance's own engine, reached through the same protocol without a socket. */
export async function openLocalPeer(
  config: Config,
  client: { name: string; version: string; pid?: number },
  logger: Logger = SILENT_LOGGER,
): Promise<Peer> {
  const daemon = await createDaemon(config, logger);
  const connection = await openCorePeer(daemon.core, client);
  const close = async () => {
    await connection.close();
    await daemon.close();
  };
  return {
    get era() {
      return connection.era;
    },
    request: (body, tensors, options) => connection.request(body, tensors, options),
    close,
  };
}
