/**
 * The few products that turn every factored adapter into one pair of factors. A pair stands for
 * the matrix up^T down: `up` [rank, outputs], `down` [rank, inputs], row-major.
 */
export type Matrix = Readonly<{ rows: number; columns: number; data: Float32Array }>;
export type Pair = Readonly<{ up: Matrix; down: Matrix }>;

/** Rows of one block of the transposition: its reads and writes stay in the cache. */
const BLOCK = 32;

/** Transposes and multiplies by a factor, in one pass; four columns at a time, for speed. */
export function transpose({ rows, columns, data }: Matrix, factor = 1): Matrix {
  const result = new Float32Array(rows * columns);
  const columnsOfFour = columns - (columns % 4);
  for (let begin = 0; begin < rows; begin += BLOCK) {
    const end = Math.min(begin + BLOCK, rows);
    for (let column = 0; column < columnsOfFour; column += 4) {
      let from = begin * columns + column;
      let to = column * rows + begin;
      for (let row = begin; row < end; row++, from += columns, to++) {
        result[to] = (data[from] as number) * factor;
        result[to + rows] = (data[from + 1] as number) * factor;
        result[to + 2 * rows] = (data[from + 2] as number) * factor;
        result[to + 3 * rows] = (data[from + 3] as number) * factor;
      }
    }
    for (let column = columnsOfFour; column < columns; column++) {
      let from = begin * columns + column;
      let to = column * rows + begin;
      for (let row = begin; row < end; row++, from += columns, to++) {
        result[to] = (data[from] as number) * factor;
      }
    }
  }
  return { rows: columns, columns: rows, data: result };
}

export function scaled({ rows, columns, data }: Matrix, factor: number): Matrix {
  const result = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) result[i] = (data[i] as number) * factor;
  return { rows, columns, data: result };
}

function identity(size: number): Matrix {
  const data = new Float32Array(size * size);
  for (let i = 0; i < size; i++) data[i * size + i] = 1;
  return { rows: size, columns: size, data };
}

/** A full matrix [outputs, inputs] as a pair, its shorter side the rank. */
export function pairOfMatrix(matrix: Matrix): Pair {
  return matrix.rows < matrix.columns
    ? { up: identity(matrix.rows), down: matrix }
    : { up: transpose(matrix), down: identity(matrix.columns) };
}

/**
 * The input side of a Tucker decomposition: V[m, i, k] = sum over d of core[m, d, k] b[d, i].
 * `core` is [m, d * taps] (taps = kernel height * width), `b` [d, inputs]; V is [m, inputs * taps].
 */
export function tuckerBasis(core: Matrix, b: Matrix): Matrix {
  const depth = b.rows;
  const inputs = b.columns;
  const taps = core.columns / depth;
  const columns = inputs * taps;
  const data = new Float32Array(core.rows * columns);
  for (let m = 0; m < core.rows; m++) {
    for (let d = 0; d < depth; d++) {
      for (let k = 0; k < taps; k++) {
        const weight = core.data[m * core.columns + d * taps + k] as number;
        for (let i = 0, to = m * columns + k, from = d * inputs; i < inputs; i++, to += taps) {
          data[to] = (data[to] as number) + weight * (b.data[from + i] as number);
        }
      }
    }
  }
  return { rows: core.rows, columns, data };
}

/** Each row of `a` times each row of `b`, element by element: [a.rows * b.rows, columns]. */
function rowProducts(a: Matrix, b: Matrix): Matrix {
  const { columns } = a;
  const data = new Float32Array(a.rows * b.rows * columns);
  let to = 0;
  for (let p = 0; p < a.rows; p++) {
    for (let q = 0; q < b.rows; q++) {
      const atA = p * columns;
      const atB = q * columns;
      for (let i = 0; i < columns; i++) {
        data[to++] = (a.data[atA + i] as number) * (b.data[atB + i] as number);
      }
    }
  }
  return { rows: a.rows * b.rows, columns, data };
}

/** Pair of the element-wise (Hadamard) product of two matrices of one shape. */
export function hadamard(a: Pair, b: Pair): Pair {
  return { up: rowProducts(a.up, b.up), down: rowProducts(a.down, b.down) };
}

/** Kronecker product of two matrices. */
function kroneckerMatrix(a: Matrix, b: Matrix): Matrix {
  const rows = a.rows * b.rows;
  const columns = a.columns * b.columns;
  const data = new Float32Array(rows * columns);
  let to = 0;
  for (let p = 0; p < a.rows; p++) {
    for (let q = 0; q < b.rows; q++) {
      for (let i = 0; i < a.columns; i++) {
        const factor = a.data[p * a.columns + i] as number;
        const from = q * b.columns;
        for (let j = 0; j < b.columns; j++) data[to++] = factor * (b.data[from + j] as number);
      }
    }
  }
  return { rows, columns, data };
}

/** Pair of the Kronecker product: (A1 B1) x (A2 B2) = (A1 x A2)(B1 x B2). */
export function kronecker(a: Pair, b: Pair): Pair {
  return { up: kroneckerMatrix(a.up, b.up), down: kroneckerMatrix(a.down, b.down) };
}

/** True unless the values hold a NaN or an infinity; four sums, because each add waits for its own. */
export function isFinite32(data: Float32Array): boolean {
  let [a, b, c, d] = [0, 0, 0, 0];
  const lengthOfFour = data.length - (data.length % 4);
  for (let i = 0; i < lengthOfFour; i += 4) {
    a += (data[i] as number) * 0;
    b += (data[i + 1] as number) * 0;
    c += (data[i + 2] as number) * 0;
    d += (data[i + 3] as number) * 0;
  }
  for (let i = lengthOfFour; i < data.length; i++) a += (data[i] as number) * 0;
  return a + b + c + d === 0;
}
