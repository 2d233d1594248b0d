/**
 * numpy.random.SeedSequence (O'Neill's seed_seq_fe, NumPy 1.17 and later): hashes entropy of any
 * length into a pool, from which seeds are drawn. Only what the Brownian tree needs of it.
 */
const INIT_A = 0x43b0d7e5;
const MULTIPLIER_A = 0x931e8875;
const INIT_B = 0x8b51f9dd;
const MULTIPLIER_B = 0x58f38ded;
const MIX_LEFT = 0xca01f9dd;
const MIX_RIGHT = 0x4973f715;
const SHIFT = 16;

/** 32-bit words of a whole number, the lowest first; 0 is one word. */
function wordsOf(value: number | bigint): number[] {
  let rest = BigInt(value);
  const words: number[] = [];
  do {
    words.push(Number(rest & 0xffffffffn));
    rest >>= 32n;
  } while (rest > 0n);
  return words;
}

function mix(left: number, right: number): number {
  const mixed = (Math.imul(MIX_LEFT, left) - Math.imul(MIX_RIGHT, right)) >>> 0;
  return (mixed ^ (mixed >>> SHIFT)) >>> 0;
}

/** The hash whose multiplier changes with every use. */
function createHash(): (value: number) => number {
  let multiplier = INIT_A;
  return (value) => {
    const mixed = (value ^ multiplier) >>> 0;
    multiplier = Math.imul(multiplier, MULTIPLIER_A) >>> 0;
    const product = Math.imul(mixed, multiplier) >>> 0;
    return (product ^ (product >>> SHIFT)) >>> 0;
  };
}

function mixPool(entropy: readonly number[], poolSize: number): Uint32Array {
  const hash = createHash();
  const pool = Uint32Array.from({ length: poolSize }, (_, index) => hash(entropy[index] ?? 0));
  const mixInto = (target: number, word: number): void => {
    pool[target] = mix(pool[target] as number, hash(word));
  };
  for (let source = 0; source < poolSize; source++) {
    for (let target = 0; target < poolSize; target++) {
      if (source !== target) mixInto(target, pool[source] as number);
    }
  }
  for (const word of entropy.slice(poolSize)) {
    for (let target = 0; target < poolSize; target++) mixInto(target, word);
  }
  return pool;
}

/** `SeedSequence(entropy, spawn_key, pool_size).generate_state(count)`, 32-bit seeds. */
export function generateSeeds(
  entropy: number | bigint,
  {
    spawnKey = [],
    poolSize,
    count,
  }: Readonly<{
    spawnKey?: readonly number[];
    poolSize: number;
    count: number;
  }>,
): number[] {
  const words = wordsOf(entropy);
  if (spawnKey.length > 0) {
    // Padding keeps a spawn key from being read as a longer entropy.
    while (words.length < poolSize) words.push(0);
    for (const key of spawnKey) words.push(...wordsOf(key));
  }
  const pool = mixPool(words, poolSize);
  let multiplier = INIT_B;
  return Array.from({ length: count }, (_, index) => {
    const mixed = ((pool[index % poolSize] as number) ^ multiplier) >>> 0;
    multiplier = Math.imul(multiplier, MULTIPLIER_B) >>> 0;
    const product = Math.imul(mixed, multiplier) >>> 0;
    return (product ^ (product >>> SHIFT)) >>> 0;
  });
}
