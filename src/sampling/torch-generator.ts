import { boxMuller16 } from "./box-muller.ts";
import { Mt19937 } from "./mt19937.ts";

/** Below this many values PyTorch draws one by one in double precision. */
const BLOCK = 16;

/** Noise seeds as workflows hold them: whole numbers up to 2^64 - 1; above 2^53 as bigint. */
export type Seed = number | bigint;

/**
 * `torch.Generator("cpu").manual_seed(seed)` and the `torch.randn` that draws from it: successive
 * calls continue the same stream. Bit-equal to PyTorch on x86 with AVX2 except where a logarithm
 * or sine of the scalar path (fewer than 16 values) differs by an ulp of double.
 */
export class TorchGenerator {
  readonly #engine: Mt19937;
  #cachedNormal: number | undefined;

  constructor(seed: Seed) {
    this.#engine = new Mt19937(seed);
  }

  /** `torch.randn(count, dtype=float32)`; a tensor of any shape is filled in row-major order. */
  randn(count: number): Float32Array {
    const data = new Float32Array(count);
    if (count < BLOCK) {
      for (let index = 0; index < count; index++) data[index] = this.#scalarNormal();
      return data;
    }
    this.#engine.fillFractions(data, 0);
    for (let begin = 0; begin + BLOCK <= count; begin += BLOCK) boxMuller16(data, begin);
    if (count % BLOCK !== 0) {
      // PyTorch draws the last block anew, so it overlaps the one before.
      this.#engine.fillFractions(data, count - BLOCK);
      boxMuller16(data, count - BLOCK);
    }
    return data;
  }

  /** 53 random bits as a fraction; the first word drawn is the upper one. */
  #uniformDouble(): number {
    const high = this.#engine.nextUint32() & 0x1fffff;
    return (high * 2 ** 32 + this.#engine.nextUint32()) * 2 ** -53;
  }

  #scalarNormal(): number {
    const cached = this.#cachedNormal;
    if (cached !== undefined) {
      this.#cachedNormal = undefined;
      return cached;
    }
    const angle = 2 * Math.PI * this.#uniformDouble();
    const radius = Math.sqrt(-2 * Math.log1p(-this.#uniformDouble()));
    this.#cachedNormal = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}
