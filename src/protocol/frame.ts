/**
 * A frame is a safetensors file: tensors by slot name, the message as JSON under
 * `__metadata__.luna`. Every language has a parser for it, and nothing in it can run.
 */
import { LunaError } from "../kernel/index.ts";
import { parseSafetensors, serializeSafetensorsParts, type Tensor } from "../tensor/index.ts";
import {
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES_MAX,
  FRAME_TENSORS_MAX,
  MESSAGE_LENGTH_MAX,
} from "./limits.ts";
import type { Message } from "./messages.ts";

const METADATA_KEY = "luna";
const PREFIX_BYTES = 8;

/** `message` is untrusted JSON; the tensors are views into the frame's bytes. */
export type Frame = Readonly<{ message: unknown; tensors: ReadonlyMap<string, Tensor> }>;

export const NO_TENSORS: ReadonlyMap<string, Tensor> = new Map();

function malformed(problem: string, cause?: unknown): LunaError {
  return new LunaError("FRAME_MALFORMED", `The frame is malformed: ${problem}`, { cause });
}

/** The chunks of one frame, header first, so that tensor bytes need not be joined here. */
export function encodeFrame(
  message: Message,
  tensors: ReadonlyMap<string, Tensor> = NO_TENSORS,
): Uint8Array[] {
  return serializeSafetensorsParts(tensors, { [METADATA_KEY]: JSON.stringify(message) });
}

/** Bytes of a frame in parts. */
export function frameBytes(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, part) => sum + part.byteLength, 0);
}

/** The parts as one buffer, which is what a message-oriented socket sends; one part is not copied. */
export function joinFrame(parts: readonly Uint8Array[]): Uint8Array {
  const [only] = parts;
  if (only && parts.length === 1) return only;
  const bytes = new Uint8Array(frameBytes(parts));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.byteLength;
  }
  return bytes;
}

/** Throws FRAME_MALFORMED for anything that is not a frame, LIMIT_EXCEEDED for one too large. */
export function decodeFrame(bytes: Uint8Array): Frame {
  checkSize(bytes);
  const { metadata, tensors } = parse(bytes);
  if (tensors.size > FRAME_TENSORS_MAX) {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `The frame has ${tensors.size} tensors, limit ${FRAME_TENSORS_MAX}.`,
    );
  }
  return { message: parseMessage(metadata[METADATA_KEY]), tensors };
}

function checkSize(bytes: Uint8Array): void {
  if (bytes.byteLength > FRAME_BYTES_MAX) {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `The frame has ${bytes.byteLength} bytes, limit ${FRAME_BYTES_MAX}.`,
    );
  }
  if (bytes.byteLength < PREFIX_BYTES) throw malformed(`it has only ${bytes.byteLength} bytes.`);
  const length = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  if (length > BigInt(FRAME_HEADER_BYTES_MAX)) {
    throw malformed(`its header claims ${length} bytes, limit ${FRAME_HEADER_BYTES_MAX}.`);
  }
}

function parse(bytes: Uint8Array): ReturnType<typeof parseSafetensors> {
  try {
    return parseSafetensors(bytes);
  } catch (cause) {
    throw malformed(cause instanceof Error ? cause.message : "it cannot be parsed.", cause);
  }
}

function parseMessage(text: string | undefined): unknown {
  if (text === undefined) throw malformed("__metadata__.luna is missing.");
  if (text.length > MESSAGE_LENGTH_MAX) {
    throw malformed(`its message has ${text.length} characters, limit ${MESSAGE_LENGTH_MAX}.`);
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw malformed("__metadata__.luna is not JSON.", cause);
  }
}
