import type { WebSocket } from "ws";
import { joinFrame } from "./frame.ts";
import type { Transport } from "./transport.ts";

/** A peer that ends neither the closing handshake nor the connection within this is cut off. */
const CLOSE_MS_MAX = 1000;
/** WebSocket limits the reason of a close to 123 bytes of UTF-8; ours are ASCII. */
const REASON_LENGTH_MAX = 120;

/** Pings while an answer is due, and how many may stay unanswered: a minute of silence. */
const HEARTBEAT_MS = 20_000;
const PINGS_UNANSWERED_MAX = 3;

export type SocketLimits = Readonly<{
  /** Bytes that may wait for a peer that reads slowly. */
  bufferedBytesMax: number;
  heartbeatMs?: number;
}>;

/**
 * An open WebSocket as a transport. A peer that reads so slowly that more than
 * `bufferedBytesMax` would wait in memory is disconnected.
 */
export function createWebSocketTransport(
  socket: WebSocket,
  { bufferedBytesMax, heartbeatMs = HEARTBEAT_MS }: SocketLimits,
): Transport {
  /** Why this side cut the peer off, which a peer that does not read never hears. */
  let cutFor: string | undefined;
  const cut = (reason: string): void => {
    cutFor ??= reason;
    socket.terminate();
  };
  const expectLife = createHeartbeat(socket, heartbeatMs, cut);
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
      const { bufferedAmount } = socket;
      if (bufferedAmount > bufferedBytesMax) {
        cut(`it reads too slowly: ${bufferedAmount} bytes wait for it`);
      } else {
        socket.send(joinFrame(parts), () => undefined);
      }
    },
    onMessage(next) {
      listener = next;
      for (const bytes of waiting ?? []) next(bytes);
      waiting = undefined;
    },
    onClose(next) {
      socket.once("close", (code: number, reason: Buffer) =>
        next(cutFor ?? `${code} ${reason.toString()}`),
      );
    },
    expectLife,
    close(reason) {
      if (socket.readyState === socket.CLOSED) return;
      socket.close(1000, reason.slice(0, REASON_LENGTH_MAX));
      const timer = setTimeout(() => socket.terminate(), CLOSE_MS_MAX);
      socket.once("close", () => clearTimeout(timer));
    },
  };
}

/** Pings while life is expected; anything that arrives is life. */
function createHeartbeat(
  socket: WebSocket,
  everyMs: number,
  cut: (reason: string) => void,
): (isExpected: boolean) => void {
  let timer: ReturnType<typeof setInterval> | undefined;
  let unanswered = 0;
  const alive = (): void => {
    unanswered = 0;
  };
  const stop = (): void => {
    clearInterval(timer);
    timer = undefined;
  };
  socket.on("pong", alive).on("message", alive).once("close", stop);
  const beat = (): void => {
    if (unanswered >= PINGS_UNANSWERED_MAX) {
      cut(`it has not answered ${unanswered} pings in ${unanswered * everyMs} ms`);
    } else {
      unanswered++;
      socket.ping();
    }
  };
  return (isExpected) => {
    if (!isExpected) stop();
    else if (timer === undefined && socket.readyState === socket.OPEN) {
      unanswered = 0;
      timer = setInterval(beat, everyMs);
      timer.unref?.();
    }
  };
}
