import { joinFrame } from "./frame.ts";

/**
 * A message-oriented, ordered, reliable connection. WebSocket, Unix socket and an in-memory pair
 * implement it, so that daemon and client have one code path. `close` is final and idempotent.
 */
export interface Transport {
  /** Sends one frame; silently dropped once closed. */
  send(parts: readonly Uint8Array[]): void;
  /** The one receiver of whole frames; messages before it is set are kept. */
  onMessage(listener: (bytes: Uint8Array) => void): void;
  /** Called once, for a close from either side. */
  onClose(listener: (reason: string) => void): void;
  close(reason: string): void;
  /** Bytes that were sent and still wait in this process for a peer that reads slowly. */
  readonly bufferedBytes: number;
  /**
   * While an answer is due on either side the peer must answer pings too, or the connection counts
   * as lost. An idle peer need not: programs that read only when they wait are honest clients.
   */
  expectLife?(isExpected: boolean): void;
}

class MemoryTransport implements Transport {
  readonly bufferedBytes = 0;
  #peer: MemoryTransport | undefined;
  #listener: ((bytes: Uint8Array) => void) | undefined;
  #closeListener: ((reason: string) => void) | undefined;
  #waiting: Uint8Array[] = [];
  #isClosed = false;

  static join(one: MemoryTransport, other: MemoryTransport): void {
    one.#peer = other;
    other.#peer = one;
  }

  send(parts: readonly Uint8Array[]): void {
    const peer = this.#peer;
    // A copy, so that a sender may reuse its arrays at once, as with a socket.
    const bytes = Uint8Array.from(joinFrame(parts));
    queueMicrotask(() => peer?.receive(bytes));
  }

  receive(bytes: Uint8Array): void {
    if (this.#isClosed) return;
    if (this.#listener) this.#listener(bytes);
    else this.#waiting.push(bytes);
  }

  onMessage(listener: (bytes: Uint8Array) => void): void {
    this.#listener = listener;
    for (const bytes of this.#waiting.splice(0)) listener(bytes);
  }

  onClose(listener: (reason: string) => void): void {
    this.#closeListener = listener;
  }

  close(reason: string): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const peer = this.#peer;
    queueMicrotask(() => {
      this.#closeListener?.(reason);
      peer?.close(reason);
    });
  }
}

/** Two ends of one connection inside a process: what one sends, the other receives, later. */
export function createMemoryTransportPair(): readonly [Transport, Transport] {
  const pair = [new MemoryTransport(), new MemoryTransport()] as const;
  MemoryTransport.join(...pair);
  return pair;
}
