import { LunaError } from "../kernel/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { expandRows, sliceRows } from "./batch.ts";

/** One row of a residual that is added. */
export type Addend = Readonly<{
  residual: FloatTensor;
  /** Its row of the residual. */
  from: number;
  scale: number;
  /** The mean of each channel in place of its picture. */
  isPooled: boolean;
}>;

/** Residuals of several control nets by name, summed for each row of a batch; rows without any are 0. */
export class ResidualSum {
  readonly #rows: number;
  readonly #sums = new Map<string, FloatTensor>();

  /** `given` is there from the beginning: [1 or rows, ...] each. */
  constructor(rows: number, given: Iterable<readonly [string, FloatTensor]>) {
    this.#rows = rows;
    for (const [name, tensor] of given) {
      const { shape, data } = expandRows(tensor, rows, name);
      this.#sums.set(name, { shape, data: data.slice() });
    }
  }

  get sums(): ReadonlyMap<string, FloatTensor> {
    return this.#sums;
  }

  /** Adds one row to batch row `row`. */
  add(name: string, row: number, { residual, from, scale, isPooled }: Addend): void {
    const inner = residual.shape.slice(1);
    const source = sliceRows(residual, from, 1).data;
    const known = this.#sums.get(name);
    const sum = known ?? {
      shape: [this.#rows, ...inner],
      data: new Float32Array(this.#rows * source.length),
    };
    if (known === undefined) this.#sums.set(name, sum);
    if (sum.shape.slice(1).join() !== inner.join()) {
      const shapes = `[${sum.shape.join(", ")}] and [${residual.shape.join(", ")}]`;
      throw new LunaError("TENSOR_MALFORMED", `Residuals "${name}" do not add up: ${shapes}.`);
    }
    const target = sliceRows(sum, row, 1).data;
    const values = isPooled ? pooled(source, inner) : source;
    for (let i = 0; i < target.length; i++) {
      target[i] = (target[i] as number) + (values[i] as number) * scale;
    }
  }
}

function pooled(planes: Float32Array, [, height = 1, width = 1]: readonly number[]): Float32Array {
  const size = height * width;
  const result = new Float32Array(planes.length);
  for (let begin = 0; begin < planes.length; begin += size) {
    const sum = planes.subarray(begin, begin + size).reduce((total, value) => total + value, 0);
    result.fill(sum / size, begin, begin + size);
  }
  return result;
}
