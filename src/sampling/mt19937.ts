/**
 * The Mersenne Twister MT19937 as PyTorch's CPU generator runs it (Matsumoto and Nishimura, 1998).
 * Seeding is the reference `init_genrand` with the low 32 bits of the seed: PyTorch drops the rest,
 * so seeds that agree modulo 2^32 give the same noise there and here.
 */
const STATE_WORDS = 624;
const SHIFT_WORDS = 397;
const MATRIX_A = 0x9908b0df;
const UPPER_MASK = 0x80000000;
const LOWER_MASK = 0x7fffffff;

export class Mt19937 {
  readonly #state = new Uint32Array(STATE_WORDS);
  #next = STATE_WORDS;

  constructor(seed: number | bigint) {
    const state = this.#state;
    let word = Number(BigInt.asUintN(32, BigInt(seed)));
    state[0] = word;
    for (let index = 1; index < STATE_WORDS; index++) {
      word = (Math.imul(1812433253, word ^ (word >>> 30)) + index) >>> 0;
      state[index] = word;
    }
  }

  /** The next 32 random bits. */
  nextUint32(): number {
    if (this.#next === STATE_WORDS) this.#refill();
    let word = this.#state[this.#next++] as number;
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    word ^= word >>> 18;
    return word >>> 0;
  }

  #refill(): void {
    const state = this.#state;
    for (let index = 0; index < STATE_WORDS; index++) {
      // Indices stay inside the state, which noUncheckedIndexedAccess cannot see.
      const upper = (state[index] as number) & UPPER_MASK;
      const lower = (state[(index + 1) % STATE_WORDS] as number) & LOWER_MASK;
      const mixed = upper | lower;
      const twist = mixed & 1 ? MATRIX_A : 0;
      state[index] = (state[(index + SHIFT_WORDS) % STATE_WORDS] as number) ^ (mixed >>> 1) ^ twist;
    }
    this.#next = 0;
  }
}
