/**
 * Frames on the pipe between daemon and engine: 8 bytes of little-endian length, then that many
 * bytes. Each frame gets a buffer of its own, so that tensors in it lie aligned and may be kept.
 */
import assert from "node:assert/strict";
import { PIPE_FRAME_BYTES_MAX } from "./limits.ts";

export const FRAME_PREFIX_BYTES = 8;

export function encodeFramePrefix(byteLength: number): Uint8Array {
  const prefix = new Uint8Array(FRAME_PREFIX_BYTES);
  new DataView(prefix.buffer).setBigUint64(0, BigInt(byteLength), true);
  return prefix;
}

/** Cuts a stream of chunks of any size into frames. */
export class FrameReader {
  readonly #prefix = new Uint8Array(FRAME_PREFIX_BYTES);
  #prefixFilled = 0;
  #frame: Uint8Array | undefined;
  #frameFilled = 0;

  /** The frames that `chunk` completes, in order. */
  push(chunk: Uint8Array): Uint8Array[] {
    const frames: Uint8Array[] = [];
    let rest = chunk;
    while (rest.byteLength > 0 || this.#frame?.byteLength === 0) {
      rest = this.#frame === undefined ? this.#takePrefix(rest) : this.#takeBody(this.#frame, rest);
      if (this.#frame !== undefined && this.#frameFilled === this.#frame.byteLength) {
        frames.push(this.#frame);
        this.#frame = undefined;
      }
    }
    return frames;
  }

  #takePrefix(chunk: Uint8Array): Uint8Array {
    const taken = chunk.subarray(0, FRAME_PREFIX_BYTES - this.#prefixFilled);
    this.#prefix.set(taken, this.#prefixFilled);
    this.#prefixFilled += taken.byteLength;
    if (this.#prefixFilled === FRAME_PREFIX_BYTES) {
      const length = new DataView(this.#prefix.buffer).getBigUint64(0, true);
      assert(length <= PIPE_FRAME_BYTES_MAX, `The peer announced a frame of ${length} bytes.`);
      // Not from the pool: byteOffset 0 keeps the tensors inside aligned.
      this.#frame = Buffer.allocUnsafeSlow(Number(length));
      this.#frameFilled = 0;
      this.#prefixFilled = 0;
    }
    return chunk.subarray(taken.byteLength);
  }

  #takeBody(frame: Uint8Array, chunk: Uint8Array): Uint8Array {
    const taken = chunk.subarray(0, frame.byteLength - this.#frameFilled);
    frame.set(taken, this.#frameFilled);
    this.#frameFilled += taken.byteLength;
    return chunk.subarray(taken.byteLength);
  }
}
