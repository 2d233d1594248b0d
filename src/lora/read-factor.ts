/**
 * The factors of plain LoRAs, nearly all there is in practice, from the file's element type to what
 * the graph takes in one pass: decoded by table, checked, and transposed where that is needed.
 */
import { type DType, type Tensor, toFloat } from "../tensor/index.ts";
import { isFinite32, transpose } from "./matrix.ts";

/** How a two-byte float tells infinity and NaN: all bits of its exponent are set. */
const EXPONENTS: Partial<Record<DType, number>> = { F16: 0x7c00, BF16: 0x7f80 };
/** The bit that an exponent of ones overflows into when its lowest bit is added. */
const OVERFLOW = 0x8000;
const CODES = 1 << 16;
/** Rows of one block of a transposition: its reads and writes stay in the cache. */
const BLOCK = 32;

const tables = new Map<DType, Float32Array>();

/** The value of each code of a two-byte type. */
function tableOf(dtype: DType): Float32Array {
  const known = tables.get(dtype);
  if (known !== undefined) return known;
  const codes = Uint16Array.from({ length: CODES }, (_, code) => code);
  const bytes = new Uint8Array(codes.buffer);
  const { data } = toFloat({ dtype, shape: [CODES], bytes });
  tables.set(dtype, data);
  return data;
}

type Coded = Readonly<{ codes: Uint16Array; values: Float32Array; exponent: number }>;

function codedOf({ dtype, bytes }: Tensor): Coded | undefined {
  const exponent = EXPONENTS[dtype];
  if (exponent === undefined || bytes.byteOffset % 2 !== 0) return undefined;
  const codes = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  return { codes, values: tableOf(dtype), exponent };
}

/** All values in their order, in memory of their own; undefined if one is NaN or infinite. */
export function readFactor(tensor: Tensor): Float32Array | undefined {
  const coded = codedOf(tensor);
  if (coded === undefined) {
    const { data } = toFloat(tensor);
    return isFinite32(data) ? owned(data) : undefined;
  }
  const { codes, values, exponent } = coded;
  const one = exponent & -exponent;
  const { length } = codes;
  const data = new Float32Array(length);
  let overflow = 0;
  for (let i = 0; i < length; i++) {
    const code = codes[i] as number;
    overflow |= (code & exponent) + one;
    data[i] = values[code] as number;
  }
  return (overflow & OVERFLOW) === 0 ? data : undefined;
}

/** A matrix [rows, columns] as [columns, rows] times `factor`; undefined as in `readFactor`. */
export function readTransposed(
  tensor: Tensor,
  [rows, columns]: readonly [number, number],
  factor: number,
): Float32Array | undefined {
  const coded = codedOf(tensor);
  if (coded === undefined) {
    const { data } = transpose({ rows, columns, data: toFloat(tensor).data }, factor);
    return isFinite32(data) ? data : undefined;
  }
  const data = new Float32Array(rows * columns);
  if (!transposeCodes(coded, { rows, columns, factor, result: data })) return undefined;
  // A finite value times a factor of at most 1 is finite.
  return Math.abs(factor) <= 1 || isFinite32(data) ? data : undefined;
}

/** False if a value is NaN or infinite. Four columns at a time, for speed. */
function transposeCodes(
  { codes, values, exponent }: Coded,
  options: Readonly<{ rows: number; columns: number; factor: number; result: Float32Array }>,
): boolean {
  const { rows, columns, factor, result } = options;
  const one = exponent & -exponent;
  const columnsOfFour = columns - (columns % 4);
  let overflow = 0;
  for (let begin = 0; begin < rows; begin += BLOCK) {
    const end = Math.min(begin + BLOCK, rows);
    for (let column = 0; column < columnsOfFour; column += 4) {
      let from = begin * columns + column;
      let to = column * rows + begin;
      for (let row = begin; row < end; row++, from += columns, to++) {
        const a = codes[from] as number;
        const b = codes[from + 1] as number;
        const c = codes[from + 2] as number;
        const d = codes[from + 3] as number;
        overflow |=
          ((a & exponent) + one) |
          ((b & exponent) + one) |
          ((c & exponent) + one) |
          ((d & exponent) + one);
        result[to] = (values[a] as number) * factor;
        result[to + rows] = (values[b] as number) * factor;
        result[to + 2 * rows] = (values[c] as number) * factor;
        result[to + 3 * rows] = (values[d] as number) * factor;
      }
    }
    for (let column = columnsOfFour; column < columns; column++) {
      let from = begin * columns + column;
      let to = column * rows + begin;
      for (let row = begin; row < end; row++, from += columns, to++) {
        const code = codes[from] as number;
        overflow |= (code & exponent) + one;
        result[to] = (values[code] as number) * factor;
      }
    }
  }
  return (overflow & OVERFLOW) === 0;
}

/** A copy when the values are a view of the file, which would keep the whole file in memory. */
export function owned(data: Float32Array): Float32Array {
  return data.byteLength === data.buffer.byteLength ? data : data.slice();
}
