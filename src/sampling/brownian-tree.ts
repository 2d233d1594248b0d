/**
 * A Brownian path whose values depend on the seed alone and not on which intervals are asked for,
 * or when: torchsde's BrownianTree (Kidger et al. 2021, "virtual Brownian tree"). The whole range
 * is a node; a node splits at its midpoint by the Brownian bridge, with noise seeded by its place
 * in the tree, until the ends of a query are node ends. Times are rounded to six decimals.
 */
import { round, roundHalfEven } from "./float-math.ts";
import { generateSeeds } from "./seed-sequence.ts";
import { type Seed, TorchGenerator } from "./torch-generator.ts";
import { addScaled, mix, scaled, subtract } from "./vector.ts";

const DECIMALS = 6;
const SEED_POOL = 24;
/** Increments kept, each one latent: more than two root-to-leaf paths, so neighbours stay cheap. */
const CACHE_ENTRIES = 64;

type Node = {
  readonly start: number;
  readonly end: number;
  readonly parent: Node | undefined;
  readonly isLeft: boolean;
  readonly depth: number;
  /** Path from the root read as a binary number. */
  readonly key: number;
  children: Readonly<{ middle: number; left: Node; right: Node; noiseSeed: number }> | undefined;
};

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
  readonly #increments = new Map<Node, Float32Array>();

  /** A path over [start, end] of `size` independent motions. */
  constructor(
    seed: Seed,
    { start, end, size }: Readonly<{ start: number; end: number; size: number }>,
  ) {
    this.#seed = seed;
    this.#size = size;
    this.#root = createNode({ start, end });
    const [first] = generateSeeds(seed, { poolSize: SEED_POOL, count: 3 });
    this.#whole = scaled(this.#randn(first as number), Math.sqrt(end - start));
  }

  /** W(to) - W(from), from <= to; times are held to the path's range and to a grid of 1e-6. */
  increment(from: number, to: number): Float32Array {
    const clamp = (time: number): number =>
      Math.min(Math.max(time, this.#root.start), this.#root.end);
    const start = roundTime(clamp(from));
    const end = roundTime(clamp(to));
    if (start >= end) return new Float32Array(this.#size); // Too short for the grid of times.
    const nodes: Node[] = [];
    this.#collect(this.#root, { start, end }, nodes);
    let sum: Float32Array | undefined;
    for (const node of nodes) {
      const part = this.#incrementOf(node);
      sum = sum ? addScaled(sum, 1, part) : part;
    }
    return sum ?? new Float32Array(this.#size);
  }

  /** Appends the nodes that together cover the range, splitting where an end lies inside one. */
  #collect(node: Node, range: Readonly<{ start: number; end: number }>, nodes: Node[]): void {
    const { start, end } = range;
    if (start === node.start && end === node.end) {
      nodes.push(node);
      return;
    }
    const { middle, left, right } = node.children ?? this.#split(node);
    if (end <= middle) {
      this.#collect(left, range, nodes);
    } else if (start >= middle) {
      this.#collect(right, range, nodes);
    } else {
      this.#collect(left, { start, end: middle }, nodes);
      this.#collect(right, { start: middle, end }, nodes);
    }
  }

  #split(node: Node): NonNullable<Node["children"]> {
    const middle = 0.5 * (node.end + node.start);
    const [noiseSeed] = generateSeeds(this.#seed, {
      spawnKey: [node.key, node.depth],
      poolSize: SEED_POOL,
      count: 4,
    });
    node.children = {
      middle: roundTime(middle),
      left: createNode({ start: node.start, end: middle, parent: node, isLeft: true }),
      right: createNode({ start: middle, end: node.end, parent: node }),
      noiseSeed: noiseSeed as number,
    };
    return node.children;
  }

  /** Brownian bridge: the left half's share of the parent's increment, plus the parent's noise. */
  #incrementOf(node: Node): Float32Array {
    const { parent } = node;
    if (!parent?.children) return this.#whole;
    const cached = this.#increments.get(node);
    if (cached) {
      this.#increments.delete(node); // Re-inserted below as the newest.
      this.#increments.set(node, cached);
      return cached;
    }
    const whole = this.#incrementOf(parent);
    const { middle, noiseSeed } = parent.children;
    const inverse = 1 / (parent.end - parent.start);
    const before = middle - parent.start;
    const after = parent.end - middle;
    const mean = scaled(scaled(whole, before), inverse);
    const deviation = round(Math.sqrt(before * after * inverse));
    const left = mix(1, mean, deviation, this.#randn(noiseSeed));
    const increment = node.isLeft ? left : subtract(whole, left);
    this.#remember(node, increment);
    return increment;
  }

  #remember(node: Node, increment: Float32Array): void {
    this.#increments.set(node, increment);
    if (this.#increments.size <= CACHE_ENTRIES) return;
    const oldest = this.#increments.keys().next();
    if (!oldest.done) this.#increments.delete(oldest.value);
  }

  #randn(seed: number): Float32Array {
    return new TorchGenerator(seed).randn(this.#size);
  }
}

function createNode({
  start,
  end,
  parent,
  isLeft = false,
}: Readonly<{ start: number; end: number; parent?: Node; isLeft?: boolean }>): Node {
  return {
    start: roundTime(start),
    end: roundTime(end),
    parent,
    isLeft,
    depth: parent ? parent.depth + 1 : 0,
    key: parent ? 2 * parent.key + (isLeft ? 0 : 1) : 0,
    children: undefined,
  };
}
