/**
 * Puts a core on the network: WebSocket and HTTP on one TCP port, and the same on a Unix socket.
 * Loopback addresses only, unless a token protects the rest.
 */
import { chmod, lstat, unlink } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, STATUS_CODES } from "node:http";
import { connect, type ListenOptions } from "node:net";
import type { Duplex } from "node:stream";
import { WebSocketServer } from "ws";
import { ERRORS, LunaError } from "../kernel/index.ts";
import {
  createWebSocketTransport,
  FRAME_BYTES_MAX,
  type SocketLimits,
  toErrorMessage,
} from "../protocol/index.ts";
import { checkOrigin, checkToken, isLoopback, type Knock } from "./access.ts";
import type { DaemonCore } from "./daemon-core.ts";
import { createHttpApp, knockOf } from "./http-app.ts";
import { SEND_BUFFER_BYTES_MAX, SOCKET_PATH_BYTES_MAX } from "./limits.ts";
import type { TryIt } from "./try-it.ts";

export const DEFAULT_PORT = 19283;
/** Of browsers that show a token; beside it they offer `bearer.<token in base64url>`. */
const SUBPROTOCOL = "luna";
const PATHS: readonly (string | undefined)[] = ["/", "/v1/ws"];

export type DaemonListenOptions = Readonly<{
  /** Default 127.0.0.1. */
  host?: string;
  /** Default 19283; 0 lets the system choose. */
  port?: number;
  /** Path of a Unix socket, or "\\\\.\\pipe\\<name>" on Windows. */
  socketPath?: string;
  /** Further names this daemon goes by in Host headers. */
  allowedHosts?: readonly string[];
  /** For tests. */
  socketLimits?: Partial<SocketLimits>;
  /** Makes the pictures of the dashboard's "try it". */
  tryIt?: TryIt;
}>;

export type ListeningDaemon = Readonly<{
  host: string;
  port: number;
  /** "ws://127.0.0.1:19283" */
  url: string;
  socketPath?: string;
  /** Stops listening, then closes the core and its sessions. */
  close: () => Promise<void>;
}>;

/** Throws CONFIG_INVALID for an address that needs a token, or is taken. */
export async function listenDaemon(
  core: DaemonCore,
  options: DaemonListenOptions = {},
): Promise<ListeningDaemon> {
  const { host = "127.0.0.1", port = DEFAULT_PORT, socketPath, allowedHosts = [] } = options;
  if (!isLoopback(host) && (core.options.tokens ?? []).length === 0) {
    throw new LunaError(
      "CONFIG_INVALID",
      `Listening on ${host} lets other machines in: set a token, or listen on 127.0.0.1.`,
    );
  }
  const limits = { bufferedBytesMax: SEND_BUFFER_BYTES_MAX, ...options.socketLimits };
  const app = createHttpApp(core, { allowedHosts, tryIt: options.tryIt });
  await app.ready();
  const webSockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: FRAME_BYTES_MAX,
    handleProtocols: (offered) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
  });
  const open = async (where: ListenOptions): Promise<Server> => {
    // Keep-alive probes find peers that vanished without closing, at the end of a long wait too.
    const server = createServer({ keepAlive: true, keepAliveInitialDelay: 30_000 }, (...pair) =>
      app.routing(...pair),
    );
    server.on("upgrade", (request, socket, head) =>
      upgrade({ core, webSockets, allowedHosts, limits }, { request, socket, head }),
    );
    await listen(server, where);
    return server;
  };
  const tcp = await open({ host, port });
  const servers = [tcp];
  if (socketPath !== undefined) servers.push(await openSocket(socketPath, open, tcp));
  const address = tcp.address();
  const actualPort = typeof address === "object" && address !== null ? address.port : port;
  return {
    host,
    port: actualPort,
    url: `ws://${host.includes(":") ? `[${host}]` : host}:${actualPort}`,
    ...(socketPath === undefined ? {} : { socketPath }),
    async close() {
      const closed = servers.map(closeServer);
      core.close();
      await Promise.all(closed);
      webSockets.close();
      await app.close();
    },
  };
}

/** On Windows a pipe is no file: nothing to tidy, nothing to protect. Untested on Windows. */
const isPipe = (path: string): boolean => path.startsWith("\\\\.\\pipe\\");

async function openSocket(
  path: string,
  open: (where: ListenOptions) => Promise<Server>,
  tcp: Server,
): Promise<Server> {
  try {
    if (!isPipe(path)) await makeRoom(path);
    const server = await open({ path });
    if (!isPipe(path)) await chmod(path, 0o600);
    return server;
  } catch (error) {
    await closeServer(tcp);
    throw error;
  }
}

/** A daemon that was killed leaves its socket file; one that answers is alive. */
async function makeRoom(path: string): Promise<void> {
  const bytes = Buffer.byteLength(path);
  if (bytes > SOCKET_PATH_BYTES_MAX) {
    // The system would cut it, and listen somewhere else.
    const message = `The socket's path has ${bytes} bytes, limit ${SOCKET_PATH_BYTES_MAX}: ${path}.`;
    throw new LunaError("CONFIG_INVALID", message);
  }
  const stats = await lstat(path).catch(() => undefined);
  if (stats === undefined) return;
  if (!stats.isSocket()) {
    throw new LunaError("CONFIG_INVALID", `${path} is no socket: give --socket another path.`);
  }
  const state = await new Promise<"alive" | "stale" | "none">((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve("alive");
    });
    probe.once("error", (error: NodeJS.ErrnoException) =>
      resolve(error.code === "ECONNREFUSED" ? "stale" : "none"),
    );
  });
  if (state === "alive") {
    throw new LunaError("CONFIG_INVALID", `Another daemon listens on ${path}.`);
  }
  if (state === "stale") await unlink(path);
}

function listen(server: Server, where: ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause: NodeJS.ErrnoException) => {
      const place = where.path ?? `${where.host}:${where.port}`;
      const hint =
        cause.code === "EADDRINUSE" ? "it is in use, perhaps by another daemon" : cause.message;
      reject(new LunaError("CONFIG_INVALID", `Cannot listen on ${place}: ${hint}.`, { cause }));
    });
    server.listen(where, resolve);
  });
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeIdleConnections();
  });
}

type Door = Readonly<{
  core: DaemonCore;
  webSockets: WebSocketServer;
  limits: SocketLimits;
  allowedHosts: readonly string[];
}>;
type Visitor = Readonly<{ request: IncomingMessage; socket: Duplex; head: Buffer }>;

function upgrade(
  { core, webSockets, allowedHosts, limits }: Door,
  { request, socket, head }: Visitor,
): void {
  socket.on("error", () => socket.destroy());
  try {
    const knock = socketKnock(request);
    checkOrigin(knock, allowedHosts);
    const grant = checkToken(knock, core.options.tokens ?? []);
    if (grant === undefined && !isFromHere(request)) {
      // A hello is read only after a frame of any size was received: too late for strangers.
      throw new LunaError("UNAUTHORIZED", "Show the token: Authorization: Bearer <token>.");
    }
    const path = request.url?.split("?")[0];
    if (!PATHS.includes(path)) {
      throw new LunaError("REQUEST_INVALID", `WebSockets are served at ${PATHS.join(" and ")}.`);
    }
    webSockets.handleUpgrade(request, socket, head, (webSocket) => {
      core.connect(createWebSocketTransport(webSocket, limits), { grant });
    });
  } catch (cause) {
    refuse(socket, LunaError.from(cause));
  }
}

/** A page cannot set headers of a WebSocket; what it can choose is subprotocols. */
function socketKnock(request: IncomingMessage): Knock {
  const knock = knockOf(request);
  const offered = request.headers["sec-websocket-protocol"]?.split(",") ?? [];
  const token = offered.map((name) => /^bearer\.([\w-]+)$/.exec(name.trim())?.[1]).find(Boolean);
  if (token === undefined || knock.authorization !== undefined) return knock;
  return { ...knock, authorization: `Bearer ${Buffer.from(token, "base64url").toString("utf8")}` };
}

/** Over a Unix socket there is no address. */
function isFromHere({ socket }: IncomingMessage): boolean {
  const address = socket.remoteAddress?.replace(/^::ffff:/, "");
  return address === undefined || isLoopback(address);
}

function refuse(socket: Duplex, error: LunaError): void {
  const { status } = ERRORS[error.code];
  const body = JSON.stringify({ error: toErrorMessage(error).error });
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? "Refused"}`,
    "content-type: application/json",
    `content-length: ${Buffer.byteLength(body)}`,
    "connection: close",
  ];
  socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
}
