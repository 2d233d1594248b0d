/**
 * A Brownian path whose values depend on the seed alone and not on which intervals are asked for,
 * or when: torchsde's BrownianTree (Kidger et al. 2021, "virtual Brownian tree"). The whole range
 * is a node; a node splits at its midpoint by the Brownian bridge, with noise seeded by its place
 * in the tree, until the ends of a query are node ends. Times are rounded to six decimals.
 */
import { roundHalfEven } from "./float-math.ts";
import { generateSeeds } from "./seed-sequence.ts";
import { type Seed, TorchGenerator } from "./torch-generator.ts";
import { addScaled, scaled, subtract } from "./vector.ts";

const DECIMALS = 6;
const SEED_POOL = 24;
/** Increments kept, one latent each: two root-to-leaf paths, so that a step shares the last one's end. */
const CACHE_ENTRIES = 64;

type Node = {
  readonly start: number;
  readonly end: number;
  readonly depth: number;
  /** Path from the root read as a binary number. */
  readonly key: number;
  split: Split | undefined;
};

type Split = Readonly<{ middle: number; left: Node; right: Node; noiseSeed: number }>;

/** Python's round(x, 6): the nearest decimal of the exact value, ties to even. */
function roundTime(time: number): number {
  const isTie = Number.isInteger(time * 128) && !Number.isInteger(time * 64);
  // Only odd multiples of 1/128 lie exactly between two decimals, and then the product is exact.
  if (isTie) return roundHalfEven(time * 10 ** DECIMALS) / 10 ** DECIMALS;
  return Number(time.toFixed(DECIMALS));
}

export class BrownianTree {
  readonly #seed: Seed;
  readonly #size: number;
  readonly #root: Node;
  readonly #whole: Float32Array;
  /** Increments of left halves by their parent, the oldest use first. */
  readonly #cache = new Map<Node, Float32Array>();

  /** A path over [start, end] of `size` independent motions. */
  constructor(
    seed: Seed,
    { start, end, size }: Readonly<{ start: number; end: number; size: number }>,
  ) {
    this.#seed = seed;
    this.#size = size;
    this.#root = createNode({ start, end, depth: 0, key: 0 });
    const [first] = generateSeeds(seed, { poolSize: SEED_POOL, count: 3 });
    this.#whole = scaled(this.#randn(first as number), Math.sqrt(end - start));
  }

  /** W(to) - W(from), from <= to; times are held to the path's range and to a grid of 1e-6. */
  increment(from: number, to: number): Float32Array {
    const clamp = (time: number): number =>
      Math.min(Math.max(time, this.#root.start), this.#root.end);
    const range = { start: roundTime(clamp(from)), end: roundTime(clamp(to)) };
    const parts: Float32Array[] = [];
    // Ends that meet on the grid are too close to be told apart.
    if (range.start < range.end) this.#collect(this.#root, range, { whole: this.#whole, parts });
    return parts.reduce(
      (sum, part) => (sum.length === 0 ? part : addScaled(sum, 1, part)),
      parts.length > 0 ? new Float32Array(0) : new Float32Array(this.#size),
    );
  }

  /**
   * Appends the increments of the nodes that together cover the range, in order, splitting where an
   * end lies inside a node; `whole` is the node's own increment.
   */
  #collect(
    node: Node,
    range: Readonly<{ start: number; end: number }>,
    { whole, parts }: Readonly<{ whole: Float32Array; parts: Float32Array[] }>,
  ): void {
    const { start, end } = range;
    if (start === node.start && end === node.end) {
      parts.push(whole);
      return;
    }
    const split = node.split ?? this.#split(node);
    const { middle, left, right } = split;
    const before = this.#leftIncrement(node, split, whole);
    if (start < middle) {
      this.#collect(left, { start, end: Math.min(end, middle) }, { whole: before, parts });
    }
    if (end > middle) {
      const after = subtract(whole, before);
      this.#collect(right, { start: Math.max(start, middle), end }, { whole: after, parts });
    }
  }

  #split(node: Node): Split {
    const middle = 0.5 * (node.end + node.start);
    const [noiseSeed] = generateSeeds(this.#seed, {
      spawnKey: [node.key, node.depth],
      poolSize: SEED_POOL,
      count: 4,
    });
    const depth = node.depth + 1;
    const key = 2 * node.key;
    node.split = {
      middle: roundTime(middle),
      left: createNode({ start: node.start, end: middle, depth, key }),
      right: createNode({ start: middle, end: node.end, depth, key: key + 1 }),
      noiseSeed: noiseSeed as number,
    };
    return node.split;
  }

  /** Brownian bridge: the left half's share of the node's increment, plus the node's own noise. */
  #leftIncrement(node: Node, { middle, noiseSeed }: Split, whole: Float32Array): Float32Array {
    const cached = this.#cache.get(node);
    if (cached) {
      this.#cache.delete(node); // Inserted again as the newest.
      this.#cache.set(node, cached);
      return cached;
    }
    const inverse = 1 / (node.end - node.start);
    const before = middle - node.start;
    const after = node.end - middle;
    const mean = scaled(scaled(whole, before), inverse);
    const increment = addScaled(mean, Math.sqrt(before * after * inverse), this.#randn(noiseSeed));
    this.#cache.set(node, increment);
    const oldest = this.#cache.keys().next();
    if (this.#cache.size > CACHE_ENTRIES && !oldest.done) this.#cache.delete(oldest.value);
    return increment;
  }

  #randn(seed: number): Float32Array {
    return new TorchGenerator(seed).randn(this.#size);
  }
}

function createNode({ start, end, depth, key }: Omit<Node, "split">): Node {
  return { start: roundTime(start), end: roundTime(end), depth, key, split: undefined };
}
