import type { WebSocket } from "ws";
import { joinFrame } from "./frame.ts";
import type { Transport } from "./transport.ts";

/** A peer that ends neither the closing handshake nor the connection within this is cut off. */
const CLOSE_MS_MAX = 1000;
/** WebSocket limits the reason of a close to 123 bytes of UTF-8; ours are ASCII. */
const REASON_LENGTH_MAX = 120;

/**
 * An open WebSocket as a transport. A peer that reads so slowly that more than
 * `bufferedBytesMax` would wait in memory is disconnected.
 */
export function createWebSocketTransport(socket: WebSocket, bufferedBytesMax: number): Transport {
  let waiting: Uint8Array[] | undefined = [];
  let listener = (bytes: Uint8Array): void => {
    waiting?.push(bytes);
  };
  // With the default binary type each message arrives as one Buffer; text is refused as a frame.
  socket.on("message", (data: Uint8Array) => listener(data));
  // A protocol violation also closes the socket; without a listener it would end the process.
  socket.on("error", () => undefined);
  return {
    get bufferedBytes() {
      return socket.bufferedAmount;
    },
    send(parts) {
      if (socket.readyState !== socket.OPEN) return;
      if (socket.bufferedAmount > bufferedBytesMax) return socket.terminate();
      socket.send(joinFrame(parts), () => undefined);
    },
    onMessage(next) {
      listener = next;
      for (const bytes of waiting ?? []) next(bytes);
      waiting = undefined;
    },
    onClose(next) {
      socket.once("close", (code: number, reason: Buffer) => next(`${code} ${reason.toString()}`));
    },
    close(reason) {
      if (socket.readyState === socket.CLOSED) return;
      socket.close(1000, reason.slice(0, REASON_LENGTH_MAX));
      const timer = setTimeout(() => socket.terminate(), CLOSE_MS_MAX);
      socket.once("close", () => clearTimeout(timer));
    },
  };
}
