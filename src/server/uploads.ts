/**
 * UNets sent as tensors, spooled to a .safetensors file: room for the header is left in front, the
 * tensors are written as they come, the header last. The file is named by its content, so the same
 * weights from anybody are one file, and becomes a model only when it is whole.
 */
import { createHash, randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { LunaError } from "../kernel/index.ts";
import { digestTensor, serializeSafetensorsHeader, type Tensor } from "../tensor/index.ts";
import {
  PART_AGE_MS_MAX,
  UPLOAD_BYTES_MAX,
  UPLOAD_FOLDER_BYTES_MAX,
  UPLOAD_HEADER_BYTES,
} from "./limits.ts";

const PREFIX_BYTES = 8;
const PART = ".part";

export type UploadLimits = Readonly<{ bytesMax?: number; folderBytesMax?: number }>;

/** One file being written. Calls to `add` must not overlap. */
export class Upload {
  readonly #folder: string;
  readonly #partPath: string;
  readonly #file: FileHandle;
  readonly #bytesMax: number;
  readonly #tensors = new Map<string, Pick<Tensor, "dtype" | "shape">>();
  readonly #digests = new Map<string, string>();
  #bytes = 0;

  private constructor(place: { folder: string; partPath: string }, file: FileHandle, max: number) {
    this.#folder = place.folder;
    this.#partPath = place.partPath;
    this.#file = file;
    this.#bytesMax = max;
  }

  /** Throws LIMIT_EXCEEDED when the folder has no room left. */
  static async open(folder: string, limits: UploadLimits = {}): Promise<Upload> {
    const { bytesMax = UPLOAD_BYTES_MAX, folderBytesMax = UPLOAD_FOLDER_BYTES_MAX } = limits;
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await cleanStaleParts(folder);
    const room = folderBytesMax - (await folderBytes(folder));
    if (room <= 0) {
      const message = `Uploaded models take more than ${folderBytesMax} bytes: remove some from ${folder} first.`;
      throw new LunaError("LIMIT_EXCEEDED", message);
    }
    const partPath = join(folder, `.${randomUUID()}${PART}`);
    const file = await open(partPath, "wx", 0o600);
    return new Upload({ folder, partPath }, file, Math.min(bytesMax, room));
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Appends tensors. Throws REQUEST_INVALID for a name that came before, LIMIT_EXCEEDED. */
  async add(tensors: ReadonlyMap<string, Tensor>): Promise<void> {
    for (const [name, tensor] of tensors) {
      if (this.#tensors.has(name)) {
        throw new LunaError("REQUEST_INVALID", `Tensor "${name}" was sent twice in one upload.`);
      }
      if (this.#bytes + tensor.bytes.byteLength > this.#bytesMax) {
        const message = `The upload is larger than the ${this.#bytesMax} bytes there is room for.`;
        throw new LunaError("LIMIT_EXCEEDED", message);
      }
      const position = UPLOAD_HEADER_BYTES + this.#bytes;
      await writeAll(this.#file, tensor.bytes, position);
      this.#bytes += tensor.bytes.byteLength;
      this.#tensors.set(name, { dtype: tensor.dtype, shape: tensor.shape });
      this.#digests.set(name, digestTensor(tensor));
    }
  }

  /** Writes the header and gives the file its name; returns its path. */
  async finish(): Promise<string> {
    if (this.#tensors.size === 0) throw new LunaError("REQUEST_INVALID", "The upload is empty.");
    await writeAll(this.#file, padHeader(serializeSafetensorsHeader(this.#tensors)), 0);
    await this.#file.close();
    const hash = createHash("sha256");
    for (const name of [...this.#digests.keys()].sort()) {
      hash.update(`${name} ${this.#digests.get(name)}\n`);
    }
    const path = join(this.#folder, `sha256-${hash.digest("hex")}.safetensors`);
    await rename(this.#partPath, path);
    return path;
  }

  /** Drops what was written. */
  async abandon(): Promise<void> {
    await this.#file.close().catch(() => undefined);
    await rm(this.#partPath, { force: true });
  }
}

/** One write may take a part only, on a disk that is filling up without an error. */
async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const rest = bytes.byteLength - done;
    done += (await file.write(bytes, done, rest, position + done)).bytesWritten;
  }
}

/** Removes what daemons that were killed had begun. */
async function cleanStaleParts(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.endsWith(PART)) continue;
    const path = join(folder, name);
    const changedMs = (await stat(path).catch(() => undefined))?.mtimeMs;
    if (changedMs === undefined || Date.now() - changedMs < PART_AGE_MS_MAX) continue;
    await rm(path, { force: true });
  }
}

/** The header with its JSON padded by spaces, so that data begins at UPLOAD_HEADER_BYTES. */
function padHeader(header: Uint8Array): Uint8Array {
  if (header.byteLength > UPLOAD_HEADER_BYTES) {
    throw new LunaError(
      "LIMIT_EXCEEDED",
      `The header has ${header.byteLength} bytes, limit ${UPLOAD_HEADER_BYTES}.`,
    );
  }
  const padded = new Uint8Array(UPLOAD_HEADER_BYTES).fill(0x20);
  padded.set(header);
  const length = BigInt(UPLOAD_HEADER_BYTES - PREFIX_BYTES);
  new DataView(padded.buffer).setBigUint64(0, length, true);
  return padded;
}

async function folderBytes(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder)) {
    const file = await stat(join(folder, name)).catch(() => undefined);
    bytes += file?.size ?? 0;
  }
  return bytes;
}
