/**
 * The factors of plain LoRAs, nearly all there is in practice, from the file's element type to what
 * the graph takes in one pass: decoded, checked, and transposed where that is needed.
 */
import {
  decodeHalves,
  decodeTransposed,
  elementCount,
  isHalf,
  type Tensor,
  toFloat,
} from "../tensor/index.ts";
import { FACTOR_PIECE_BYTES } from "./limits.ts";
import { isFinite32, transpose } from "./matrix.ts";

/** Not zeroed, which takes as long as writing the values. */
function rawValues(count: number): Float32Array {
  const { buffer } = Buffer.allocUnsafeSlow(count * Float32Array.BYTES_PER_ELEMENT);
  return new Float32Array(buffer, 0, count);
}

/** Gives a piece of FACTOR_PIECE_BYTES. */
export type PieceSource = () => Float32Array;
const PIECE_VALUES = FACTOR_PIECE_BYTES / Float32Array.BYTES_PER_ELEMENT;
export const rawPiece: PieceSource = () => rawValues(PIECE_VALUES);

/** Memory for the factors of one file, in few pieces. A piece is alive as long as one factor in it is. */
export class FactorMemory {
  readonly #newPiece: PieceSource;
  readonly #pieces: { readonly values: Float32Array; used: number }[] = [];
  #left: number;

  /** `count` values will be asked for in all; fewer than fill a piece get no more than they need. */
  constructor(count: number, newPiece: PieceSource = rawPiece) {
    this.#left = count;
    this.#newPiece = newPiece;
  }

  take(count: number): Float32Array {
    const hasRoom = ({ values, used }: { values: Float32Array; used: number }) =>
      used + count <= values.length;
    const piece = this.#pieces.find(hasRoom) ?? this.#addPiece(count);
    this.#left -= count;
    piece.used += count;
    return piece.values.subarray(piece.used - count, piece.used);
  }

  #addPiece(count: number) {
    const size = count > PIECE_VALUES ? count : Math.max(this.#left, count);
    const values =
      count <= PIECE_VALUES && size > PIECE_VALUES ? this.#newPiece() : rawValues(size);
    const piece = { values, used: 0 };
    this.#pieces.push(piece);
    return piece;
  }
}

/** How much of a `FactorMemory` reading a tensor takes. */
export function sharedCount({ dtype, shape }: Tensor): number {
  return isHalf(dtype) ? elementCount(shape) : 0;
}

/** All values in their order; undefined if one is NaN or infinite. */
export function readFactor(tensor: Tensor, memory: FactorMemory): Float32Array | undefined {
  const { dtype, shape, bytes } = tensor;
  if (!isHalf(dtype)) {
    const { data } = toFloat(tensor);
    return isFinite32(data) ? owned(data) : undefined;
  }
  const data = memory.take(elementCount(shape));
  return decodeHalves({ dtype, bytes }, data) ? data : undefined;
}

/** A matrix [rows, columns] as [columns, rows] times `factor`; undefined as in `readFactor`. */
export function readTransposed(
  tensor: Tensor,
  [rows, columns]: readonly [number, number],
  { factor, memory }: Readonly<{ factor: number; memory: FactorMemory }>,
): Float32Array | undefined {
  const { dtype, bytes } = tensor;
  if (!isHalf(dtype)) {
    const { data } = transpose({ rows, columns, data: toFloat(tensor).data }, factor);
    return isFinite32(data) ? data : undefined;
  }
  const into = memory.take(rows * columns);
  if (!decodeTransposed({ dtype, bytes }, { rows, columns, factor, into })) return undefined;
  // A finite value times a factor of at most 1 is finite.
  return Math.abs(factor) <= 1 || isFinite32(into) ? into : undefined;
}

/** A copy when the values are a view of the file, which would keep the whole file in memory. */
export function owned(data: Float32Array): Float32Array {
  return data.byteLength === data.buffer.byteLength ? data : data.slice();
}
