import { WebSocket } from "ws";
import { LunaError } from "../kernel/index.ts";
import { createWebSocketTransport, FRAME_BYTES_MAX, type Transport } from "../protocol/index.ts";
import { CONNECT_MS_MAX, SEND_BUFFER_BYTES_MAX } from "./limits.ts";

export const DAEMON_URL = "ws://127.0.0.1:19283";

const NOT_RUNNING = "Daemon is not running. Start it with: npx luna serve";

/**
 * Opens a WebSocket to a daemon: "ws://host:port", or "ws+unix:/path/to/socket:/v1/ws" for a Unix
 * socket. Throws DAEMON_NOT_RUNNING, UNAUTHORIZED or ORIGIN_REFUSED.
 */
export function openWebSocket(url: string, token?: string): Promise<Transport> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, {
      perMessageDeflate: false,
      maxPayload: FRAME_BYTES_MAX,
      handshakeTimeout: CONNECT_MS_MAX,
      headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
      ...(isOnThisMachine(url) ? { generateMask: maskOfZeros } : {}),
    });
    socket.once("open", () =>
      resolve(createWebSocketTransport(socket, { bufferedBytesMax: SEND_BUFFER_BYTES_MAX })),
    );
    socket.once("unexpected-response", (_request, response) => {
      reject(refusal(url, response.statusCode));
      socket.terminate();
    });
    socket.on("error", (cause) => {
      const details = { url };
      reject(new LunaError("DAEMON_NOT_RUNNING", NOT_RUNNING, { cause, details }));
    });
  });
}

function refusal(url: string, status: number | undefined): LunaError {
  if (status === 401) return new LunaError("UNAUTHORIZED", `${url} wants another token.`);
  if (status === 403) return new LunaError("ORIGIN_REFUSED", `${url} refuses this host name.`);
  return new LunaError("DAEMON_NOT_RUNNING", `${url} is no Luna daemon (HTTP ${status}).`);
}

/**
 * Masks exist to keep web pages from forging requests to proxies (RFC 6455, 10.3). Between two
 * programs of one machine there is neither; a mask of zeros saves a pass over each byte.
 */
function maskOfZeros(mask: Buffer): void {
  mask.fill(0);
}

function isOnThisMachine(url: string): boolean {
  if (url.startsWith("ws+unix:")) return true;
  const { protocol, hostname } = new URL(url);
  return protocol === "ws:" && ["127.0.0.1", "localhost", "[::1]"].includes(hostname);
}
