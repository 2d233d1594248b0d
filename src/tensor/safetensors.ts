/**
 * The safetensors format, https://huggingface.co/docs/safetensors: 8 bytes of little-endian
 * header length N, N bytes of JSON, then the data. Entries give offsets relative to the data.
 * Everything in the header is untrusted: each number is checked before it is used.
 */
import { LunaError } from "../kernel/index.ts";
import {
  HEADER_BYTES_MAX,
  METADATA_ENTRIES_MAX,
  NAME_LENGTH_MAX,
  TENSOR_COUNT_MAX,
} from "./limits.ts";
import { DTYPE_BYTES, type DType, elementCount, isDType, type Tensor } from "./tensor.ts";

/** Where a tensor lies: `begin` and `end` are absolute byte offsets in the file. */
export type TensorEntry = Readonly<{
  dtype: DType;
  shape: readonly number[];
  begin: number;
  end: number;
}>;

export type SafetensorsHeader = Readonly<{
  metadata: Readonly<Record<string, string>>;
  tensors: ReadonlyMap<string, TensorEntry>;
  /** Absolute offset of the first data byte. */
  dataBegin: number;
}>;

/** Reads `length` bytes at an absolute offset; shorter only at the end of the file. */
export type ReadAt = (offset: number, length: number) => Promise<Uint8Array>;

const PREFIX_BYTES = 8;
const ALIGNMENT_BYTES = 64;

function malformed(message: string, cause?: unknown): LunaError {
  return new LunaError("TENSOR_MALFORMED", message, { cause });
}

// One for all frames: each step makes and parses several on its way.
const UTF8 = new TextDecoder("utf-8", { fatal: true });
const UTF8_ENCODER = new TextEncoder();

function parseHeaderLength(prefix: Uint8Array, totalBytes: number): number {
  if (prefix.byteLength < PREFIX_BYTES) {
    throw malformed(`Not a safetensors file: ${totalBytes} bytes, at least 8 are needed.`);
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, PREFIX_BYTES);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(HEADER_BYTES_MAX)) {
    throw malformed(`Header length ${length} exceeds the limit of ${HEADER_BYTES_MAX} bytes.`);
  }
  if (Number(length) + PREFIX_BYTES > totalBytes) {
    throw malformed(`Header length ${length} runs past the end of ${totalBytes} bytes.`);
  }
  return Number(length);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseMetadata(value: unknown): Record<string, string> {
  if (!isRecord(value)) throw malformed("__metadata__ is not an object.");
  const entries = Object.entries(value);
  if (entries.length > METADATA_ENTRIES_MAX) {
    throw malformed(`__metadata__ has ${entries.length} entries, limit ${METADATA_ENTRIES_MAX}.`);
  }
  const metadata: Record<string, string> = Object.create(null);
  for (const [key, text] of entries) {
    if (typeof text !== "string") throw malformed(`__metadata__.${key} is not a string.`);
    metadata[key] = text;
  }
  return metadata;
}

/** Checks one header entry and makes its offsets absolute. */
export function parseTensorEntry(
  name: string,
  value: unknown,
  dataBegin: number,
  totalBytes: number,
): TensorEntry {
  if (name.length > NAME_LENGTH_MAX) {
    throw malformed(`A tensor name has ${name.length} characters, limit ${NAME_LENGTH_MAX}.`);
  }
  if (!isRecord(value)) throw malformed(`Tensor "${name}" is not described by an object.`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !isDType(dtype)) {
    throw malformed(`Tensor "${name}" has the unknown dtype ${JSON.stringify(dtype)}.`);
  }
  if (!Array.isArray(shape)) throw malformed(`Tensor "${name}" has no shape.`);
  const bytes = elementCount(shape) * DTYPE_BYTES[dtype];
  if (!Array.isArray(offsets) || offsets.length !== 2) {
    throw malformed(`Tensor "${name}" has no pair of data_offsets.`);
  }
  const [begin, end] = offsets;
  if (!Number.isSafeInteger(begin) || !Number.isSafeInteger(end) || begin < 0 || end < begin) {
    throw malformed(`Tensor "${name}" has the offsets [${begin}, ${end}].`);
  }
  if (end - begin !== bytes) {
    throw malformed(
      `Tensor "${name}" spans ${end - begin} bytes, ${dtype} [${shape.join(", ")}] needs ${bytes}.`,
    );
  }
  if (dataBegin + end > totalBytes) {
    throw malformed(`Tensor "${name}" ends at ${dataBegin + end}, the file at ${totalBytes}.`);
  }
  return { dtype, shape, begin: dataBegin + begin, end: dataBegin + end };
}

function assertNoOverlap(tensors: ReadonlyMap<string, TensorEntry>): void {
  const sorted = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let lastEnd = 0;
  for (const [name, entry] of sorted) {
    if (entry.begin === entry.end) continue;
    if (entry.begin < lastEnd) throw malformed(`Tensor "${name}" overlaps another tensor.`);
    lastEnd = entry.end;
  }
}

/** Parses the JSON part of a header. `totalBytes` is the size of the whole file or frame. */
export function parseSafetensorsHeader(json: Uint8Array, totalBytes: number): SafetensorsHeader {
  let root: unknown;
  try {
    root = JSON.parse(UTF8.decode(json));
  } catch (cause) {
    throw malformed("The safetensors header is not valid JSON.", cause);
  }
  if (!isRecord(root)) throw malformed("The safetensors header is not an object.");
  const dataBegin = PREFIX_BYTES + json.byteLength;
  const names = Object.keys(root);
  if (names.length > TENSOR_COUNT_MAX) {
    throw malformed(`The header names ${names.length} tensors, limit ${TENSOR_COUNT_MAX}.`);
  }
  let metadata: Record<string, string> = Object.create(null);
  const tensors = new Map<string, TensorEntry>();
  for (const name of names) {
    if (name === "__metadata__") metadata = parseMetadata(root[name]);
    else tensors.set(name, parseTensorEntry(name, root[name], dataBegin, totalBytes));
  }
  assertNoOverlap(tensors);
  return { metadata, tensors, dataBegin };
}

/** Reads and checks the header of a file of `totalBytes` without touching its data. */
export async function readSafetensorsHeader(
  readAt: ReadAt,
  totalBytes: number,
): Promise<SafetensorsHeader> {
  const length = parseHeaderLength(await readAt(0, PREFIX_BYTES), totalBytes);
  const json = await readAt(PREFIX_BYTES, length);
  if (json.byteLength !== length) throw malformed("The file ended inside its header.");
  return parseSafetensorsHeader(json, totalBytes);
}

export type Safetensors = Readonly<{
  metadata: Readonly<Record<string, string>>;
  tensors: ReadonlyMap<string, Tensor>;
}>;

/** Parses a whole file or frame in memory; the tensors are views into `bytes`. */
export function parseSafetensors(bytes: Uint8Array): Safetensors {
  const length = parseHeaderLength(bytes, bytes.byteLength);
  const json = bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + length);
  const header = parseSafetensorsHeader(json, bytes.byteLength);
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape, begin, end }] of header.tensors) {
    tensors.set(name, { dtype, shape, bytes: bytes.subarray(begin, end) });
  }
  return { metadata: header.metadata, tensors };
}

/**
 * The prefix and header of a file, padded with spaces so that the data begins at a multiple of 64.
 * Tensors follow in the order given, each at a multiple of 8 bytes only if all sizes are.
 */
export function serializeSafetensorsHeader(
  entries: Iterable<readonly [string, Pick<Tensor, "dtype" | "shape">]>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const root: Record<string, unknown> = {};
  if (Object.keys(metadata).length > 0) root["__metadata__"] = metadata;
  let offset = 0;
  for (const [name, { dtype, shape }] of entries) {
    const end = offset + elementCount(shape) * DTYPE_BYTES[dtype];
    root[name] = { dtype, shape, data_offsets: [offset, end] };
    offset = end;
  }
  const json = UTF8_ENCODER.encode(JSON.stringify(root));
  const total = Math.ceil((PREFIX_BYTES + json.byteLength) / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
  const header = new Uint8Array(total).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(total - PREFIX_BYTES), true);
  header.set(json, PREFIX_BYTES);
  return header;
}

/** Header and data as separate chunks, so that a socket can send them without joining them. */
export function serializeSafetensorsParts(
  tensors: ReadonlyMap<string, Tensor>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array[] {
  // Widest elements first, so that each tensor lies aligned to its element size.
  const sorted = [...tensors].sort(([, a], [, b]) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]);
  return [serializeSafetensorsHeader(sorted, metadata), ...sorted.map(([, t]) => t.bytes)];
}

/** One buffer with the whole file. */
export function serializeSafetensors(
  tensors: ReadonlyMap<string, Tensor>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const parts = serializeSafetensorsParts(tensors, metadata);
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.byteLength;
  }
  return bytes;
}
