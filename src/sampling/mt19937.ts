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
const FRACTION_MASK = 0xffffff;
const FRACTION_UNIT = 2 ** -24;

export class Mt19937 {
  // Indices stay inside the state, which noUncheckedIndexedAccess cannot see: hence the casts.
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
    return temper(this.#state[this.#next++] as number) >>> 0;
  }

  /** Fills target[begin ..] with fractions of 24 random bits, one draw each. */
  fillFractions(target: Float32Array, begin: number): void {
    const state = this.#state;
    let next = this.#next;
    for (let index = begin; index < target.length; index++) {
      if (next === STATE_WORDS) {
        this.#refill();
        next = 0;
      }
      target[index] = (temper(state[next++] as number) & FRACTION_MASK) * FRACTION_UNIT;
    }
    this.#next = next;
  }

  /** The next 624 words of state; indices wrap around in three runs. */
  #refill(): void {
    const state = this.#state;
    const wrap = STATE_WORDS - SHIFT_WORDS;
    for (let index = 0; index < wrap; index++) twist(state, index, index + SHIFT_WORDS);
    for (let index = wrap; index < STATE_WORDS - 1; index++) twist(state, index, index - wrap);
    const last = STATE_WORDS - 1;
    state[last] = twisted(
      state[last] as number,
      state[0] as number,
      state[SHIFT_WORDS - 1] as number,
    );
    this.#next = 0;
  }
}

function twisted(upper: number, lower: number, shifted: number): number {
  const mixed = (upper & UPPER_MASK) | (lower & LOWER_MASK);
  return shifted ^ (mixed >>> 1) ^ (-(mixed & 1) & MATRIX_A);
}

function twist(state: Uint32Array, index: number, shifted: number): void {
  state[index] = twisted(
    state[index] as number,
    state[index + 1] as number,
    state[shifted] as number,
  );
}

function temper(bits: number): number {
  let word = bits;
  word ^= word >>> 11;
  word ^= (word << 7) & 0x9d2c5680;
  word ^= (word << 15) & 0xefc60000;
  return word ^ (word >>> 18);
}
