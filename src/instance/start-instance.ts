/** Wires an instance: queue, lanes, sockets and routes behind one port. */
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { WebSocketServer } from "ws";
import { type Logger, LunaError, SILENT_LOGGER } from "../kernel/index.ts";
import type { NodeServices } from "../nodes/index.ts";
import { createWorkflowRunner, type Definitions } from "../workflow/index.ts";
import { mayEnter } from "./access.ts";
import type { InstanceFolders } from "./folders.ts";
import { fileRoutes } from "./http/file-routes.ts";
import { type InfoRoutesOptions, infoRoutes } from "./http/info-routes.ts";
import { jobRoutes } from "./http/job-routes.ts";
import { type ModelRoutesOptions, modelRoutes } from "./http/model-routes.ts";
import { promptRoutes } from "./http/prompt-routes.ts";
import { Router } from "./http/router.ts";
import { staticFile } from "./http/static-files.ts";
import { prepareUserFolder, userRoutes } from "./http/user-routes.ts";
import { KEEP_ALIVE_MS, SOCKET_MESSAGE_BYTES_MAX } from "./limits.ts";
import { createPreviewer, isPreviewMethod, type PreviewMethod } from "./previewers.ts";
import { PromptLanes } from "./prompt-lanes.ts";
import { PromptQueue, type RunningPrompt } from "./prompt-queue.ts";
import { SocketHub } from "./socket-hub.ts";

export type InstanceOptions = Readonly<{
  definitions: Definitions;
  services: NodeServices;
  files: ModelRoutesOptions["files"];
  folders: InstanceFolders;
  /** Settings and saved workflows of the web front end. */
  userFolder: string;
  /** Files of the web front end; without them `/` only says what this is. */
  frontEndRoot?: string;
  host: string;
  /** 0 picks a free one. */
  port: number;
  allowedHosts?: readonly string[];
  /** Prompts that run at once. */
  concurrency: number;
  version: string;
  clients: InfoRoutesOptions["clients"];
  /** For prompts that ask for no kind of their own. */
  previewMethod: PreviewMethod;
  logger?: Logger;
  /** Milliseconds since 1970. */
  now?: () => number;
}>;

export type Instance = Readonly<{
  url: string;
  port: number;
  /** Interrupts what runs and closes all connections. */
  close: () => Promise<void>;
}>;

/** Throws CONFIG_INVALID for a port that is taken. */
export async function startInstance(options: InstanceOptions): Promise<Instance> {
  const { definitions, services, folders, frontEndRoot } = options;
  const { logger = SILENT_LOGGER, now = Date.now } = options;
  const queue = new PromptQueue();
  const hub = new SocketHub();
  const runners = Array.from({ length: options.concurrency }, () =>
    createWorkflowRunner({ definitions, services }),
  );
  const previewsOf = ({ extraData }: RunningPrompt) => {
    const asked = extraData.get("preview_method");
    const method = isPreviewMethod(asked) ? asked : options.previewMethod;
    return { previewer: createPreviewer(method, services), isPreviewShy: method === "auto" };
  };
  const lanes = new PromptLanes({ queue, hub, runners, previewsOf, now, logger });
  const validate = createWorkflowRunner({ definitions, services }).validate;
  const router = new Router(
    {
      ...promptRoutes({ queue, lanes, validate, now }),
      ...jobRoutes(queue),
      ...fileRoutes(folders),
      ...infoRoutes(options),
      ...modelRoutes(options),
      ...userRoutes(options.userFolder),
    },
    { fallback: (path, request) => staticFile(frontEndRoot, path, request), logger },
  );
  const mayUse = ({ headers }: IncomingMessage) => {
    const { host, origin } = headers;
    const knock = { host, origin, fetchSite: headers["sec-fetch-site"]?.toString() };
    return mayEnter(knock, options.allowedHosts ?? []);
  };
  const server = createServer((request, response) => {
    if (!mayUse(request)) response.writeHead(403).end();
    else void router.answer(request, response).catch(() => response.destroy());
  });
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  const sockets = acceptSockets(server, { hub, queue, mayUse });
  await prepareUserFolder(options.userFolder);
  await listen(server, options);
  const { port } = server.address() as AddressInfo; // A TCP server's address is one.
  const url = `http://${options.host}:${port}`;
  logger.info("instance.listening", { url, concurrency: options.concurrency });
  return {
    url,
    port,
    async close() {
      await lanes.close();
      hub.close();
      sockets.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

type SocketOptions = Readonly<{
  hub: SocketHub;
  queue: PromptQueue;
  mayUse: (request: IncomingMessage) => boolean;
}>;

function acceptSockets(server: Server, { hub, queue, mayUse }: SocketOptions): WebSocketServer {
  const sockets = new WebSocketServer({ noServer: true, maxPayload: SOCKET_MESSAGE_BYTES_MAX });
  server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    const url = new URL(request.url ?? "/", "http://instance");
    socket.on("error", () => socket.destroy());
    if (!mayUse(request)) return refuse(socket, "403 Forbidden");
    if (url.pathname !== "/ws" && url.pathname !== "/api/ws")
      return refuse(socket, "404 Not Found");
    sockets.handleUpgrade(request, socket, head, (webSocket) => {
      hub.add(webSocket, url.searchParams.get("clientId") ?? "", (id) => greet(id, hub, queue));
    });
  });
  return sockets;
}

function refuse(socket: Duplex, status: string): void {
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
}

/** The queue's length and the client's id; then, in the midst of its run, the node it is at. */
function greet(id: string, hub: SocketHub, queue: PromptQueue): void {
  const exec_info = { queue_remaining: queue.remaining };
  hub.send(id, "status", { status: { exec_info }, sid: id });
  const running = queue.running.find(({ clientId }) => clientId === id);
  const node = running?.current.node;
  if (node !== undefined) hub.send(id, "executing", { node });
}

function listen(server: Server, { host, port }: InstanceOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause) => {
      reject(
        new LunaError("CONFIG_INVALID", `Cannot listen on ${host}:${port}: ${cause.message}.`, {
          cause,
        }),
      );
    });
    server.listen(port, host, resolve);
  });
}
