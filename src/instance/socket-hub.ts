/** The WebSockets of an instance's clients and what each of them understands. */
import { randomUUID } from "node:crypto";
import type { WebSocket } from "ws";
import { ID_LENGTH_MAX, SOCKET_BACKLOG_BYTES_MAX } from "./limits.ts";
import { toWireJson } from "./wire-json.ts";

/** What this server can do; clients ask for it before they rely on it. */
export const FEATURES = {
  supports_preview_metadata: true,
  max_upload_size: 100 * 2 ** 20,
  extension: { manager: { supports_v4: true } },
  node_replacements: true,
  assets: false,
} as const;

/** Kinds of binary messages and picture formats, big-endian uint32 at the front. */
const FRAME_PREVIEW = 1;
const FRAME_PREVIEW_WITH_METADATA = 4;
const FORMAT_PNG = 2;

type Client = { readonly socket: WebSocket; readonly id: string; hasPreviewMetadata: boolean };

export class SocketHub {
  /** The newest socket of each client; older ones of the same id hear only broadcasts. */
  readonly #clients = new Map<string, Client>();
  readonly #sockets = new Set<Client>();

  /** Adds a socket under the id it asks for, or a new one; `greet` says what it must know at once. */
  add(socket: WebSocket, wantedId: string, greet: (clientId: string) => void): void {
    const given = wantedId.slice(0, ID_LENGTH_MAX);
    const id = given === "" ? randomUUID().replaceAll("-", "") : given;
    const client: Client = { socket, id, hasPreviewMetadata: false };
    this.#clients.set(id, client);
    this.#sockets.add(client);
    let isFirst = true;
    socket.on("message", (data, isBinary) => {
      const flags = isBinary || !isFirst ? undefined : readMessage(String(data));
      if (flags === undefined) return;
      isFirst = false;
      if (flags.type !== "feature_flags") return;
      client.hasPreviewMetadata = flags.hasPreviewMetadata;
      socket.send(toWireJson({ type: "feature_flags", data: FEATURES }));
    });
    socket.on("error", () => socket.terminate());
    socket.on("close", () => {
      this.#sockets.delete(client);
      // A newer socket of the same client stays: ComfyUI would delete it here.
      if (this.#clients.get(id) === client) this.#clients.delete(id);
    });
    greet(id);
  }

  send(clientId: string | undefined, type: string, data: unknown): void {
    const client = clientId === undefined ? undefined : this.#clients.get(clientId);
    client?.socket.send(toWireJson({ type, data }));
  }

  broadcast(type: string, data: unknown): void {
    const text = toWireJson({ type, data });
    for (const { socket } of this.#sockets) socket.send(text);
  }

  /** True when the client takes previews in the newer form, which goes out before its `progress`. */
  hasPreviewMetadata(clientId: string): boolean {
    return this.#clients.get(clientId)?.hasPreviewMetadata === true;
  }

  /** A PNG; left out for a socket that is far behind. */
  sendPreview(
    clientId: string,
    png: Uint8Array,
    metadata: Readonly<Record<string, unknown>>,
  ): void {
    const client = this.#clients.get(clientId);
    if (client === undefined || client.socket.bufferedAmount > SOCKET_BACKLOG_BYTES_MAX) return;
    const head = client.hasPreviewMetadata
      ? metadataHead({ ...metadata, image_type: "image/png" })
      : uint32(FRAME_PREVIEW, FORMAT_PNG);
    client.socket.send(Buffer.concat([head, png]));
  }

  close(): void {
    for (const { socket } of this.#sockets) socket.terminate();
  }
}

function uint32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, index * 4);
  return bytes;
}

function metadataHead(metadata: Readonly<Record<string, unknown>>): Buffer {
  const text = Buffer.from(JSON.stringify(metadata));
  return Buffer.concat([uint32(FRAME_PREVIEW_WITH_METADATA, text.byteLength), text]);
}

/** Undefined for what is no JSON: that does not count as the first message. */
function readMessage(text: string): { type: unknown; hasPreviewMetadata: boolean } | undefined {
  try {
    const message: unknown = JSON.parse(text);
    const { type, data } = Object(message) as Record<string, unknown>;
    const flags = Object(data) as Record<string, unknown>;
    return { type, hasPreviewMetadata: flags["supports_preview_metadata"] === true };
  } catch {
    return undefined;
  }
}
