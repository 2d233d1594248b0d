/** Adapter files, read tensor by tensor: a whole file in memory first would cost as much as decoding it. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { LunaError } from "../kernel/index.ts";
import { type LoraModel, type PieceSource, parseShare, type Share } from "../lora/index.ts";
import {
  type DType,
  readSafetensorsHeader,
  type Tensor,
  type TensorEntry,
} from "../tensor/index.ts";
import { LORA_FILE_BYTES_MAX } from "./limits.ts";

/** Types that `toFloat` never gives a view of. */
const COPIED: readonly DType[] = ["F16", "BF16", "F8_E4M3", "F8_E5M2"];

/** Fills `into` from the file. Throws FILE_UNREADABLE when it is shorter. */
function readFully(file: number, into: Uint8Array, position: number): Uint8Array {
  for (let filled = 0; filled < into.byteLength; ) {
    const count = readSync(file, into, filled, into.byteLength - filled, position + filled);
    if (count === 0) throw new LunaError("FILE_UNREADABLE", "it ended while it was read.");
    filled += count;
  }
  return into;
}

/** A tensor whose bytes are read when they are asked for. */
class StoredTensor implements Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly #read: (dtype: DType) => Uint8Array;

  constructor({ dtype, shape }: TensorEntry, read: (dtype: DType) => Uint8Array) {
    this.dtype = dtype;
    this.shape = shape;
    this.#read = read;
  }

  /** Those of two-byte and one-byte floats are good until the next tensor is read. */
  get bytes(): Uint8Array {
    return this.#read(this.dtype);
  }
}

/**
 * Reads and parses a share of an adapter file for one model; undefined if there is no such file.
 * Blocks the thread. Throws LIMIT_EXCEEDED, FILE_UNREADABLE and what `parseShare` throws.
 */
export async function readLoraFile(
  path: string,
  model: LoraModel,
  share: Share & Readonly<{ newPiece?: PieceSource }>,
): Promise<ReturnType<typeof parseShare> | undefined> {
  const file = openFile(path);
  if (file === undefined) return undefined;
  try {
    const { size } = fstatSync(file);
    if (size > LORA_FILE_BYTES_MAX) {
      const message = `it has ${size} bytes, limit ${LORA_FILE_BYTES_MAX}.`;
      throw new LunaError("LIMIT_EXCEEDED", message);
    }
    const readAt = async (position: number, length: number) =>
      readFully(file, new Uint8Array(Math.min(length, size - position)), position);
    const header = await readSafetensorsHeader(readAt, size);
    const entries = [...header.tensors];
    const copied = entries.filter(([, { dtype }]) => COPIED.includes(dtype));
    const sizes = copied.map(([, { begin, end }]) => end - begin);
    const shared = new Uint8Array(sizes.reduce((most, each) => Math.max(most, each), 0));
    const tensors = entries.map(([name, entry]): [string, Tensor] => {
      const length = entry.end - entry.begin;
      const read = (dtype: DType) => {
        const into = COPIED.includes(dtype) ? shared.subarray(0, length) : new Uint8Array(length);
        return readFully(file, into, entry.begin);
      };
      return [name, new StoredTensor(entry, read)];
    });
    return parseShare({ metadata: header.metadata, tensors: new Map(tensors) }, model, share);
  } finally {
    closeSync(file);
  }
}

function openFile(path: string): number | undefined {
  try {
    return openSync(path, "r");
  } catch {
    return undefined;
  }
}
