/**
 * The adapter inputs of a graph as ONNX Runtime takes them, some hundred for each net. Factors
 * depend on which adapters a batch uses, scales on strengths too: both are kept, since the steps
 * of a picture repeat them.
 */
import { LRUCache } from "lru-cache";
import type { AdapterTarget, OpChoices } from "../graph/index.ts";
import {
  type Adapter,
  type Applied,
  activeAdapters,
  isMixed,
  joinFactors,
  rowFactors,
  rowScales,
  scaleRows,
  vectorRows,
} from "../lora/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { type ByteBudget, ByteCache } from "./byte-budget.ts";
import { SCALES_MAX } from "./limits.ts";
import { type Feeds, type Runtime, toOrt } from "./runtime.ts";

type Net = Readonly<{
  key: string;
  targets: readonly AdapterTarget[];
  norms: readonly AdapterTarget[];
  /** The graph has the vectors too. */
  isFull: boolean;
}>;

/** Joined factors of one set of adapters, and the inputs with the scales seen with them. */
type Joined = Readonly<{ feeds: Feeds; bytes: number; complete: LRUCache<string, Feeds> }>;

export class AdapterFeeds {
  readonly #runtime: Runtime;
  readonly #choices: OpChoices;
  readonly #joined: ByteCache<Joined>;
  /** Inputs that are one adapter's own arrays: they live as long as it does. */
  readonly #single = new WeakMap<Adapter["factors"], Joined>();

  constructor(runtime: Runtime, choices: OpChoices, budget: ByteBudget) {
    this.#runtime = runtime;
    this.#choices = choices;
    this.#joined = new ByteCache(budget, ({ bytes }) => bytes);
  }

  /**
   * Inputs for a batch; `rows` holds for each batch row the adapters on it. The same object comes
   * back for the same batch: the caller sets the other inputs in it, all of them at each run.
   */
  feeds(net: Net, rows: readonly (readonly Applied[])[]): Feeds {
    const adapters = activeAdapters(rows);
    const isOwn = isMixed(rows, this.#choices);
    const joined = isOwn ? this.#joinRows(net, rows) : this.#join(net, adapters);
    const strengths = adapters.length === 0 ? [] : rows.map(strengthsOf);
    const scalesKey = JSON.stringify([net.isFull, rows.length, strengths]);
    let complete = joined.complete.get(scalesKey);
    if (complete === undefined) {
      const shared = scaleRows(net.targets, adapters, { rows, choices: this.#choices });
      const scales = isOwn ? [...shared, ...rowScales(net.targets, rows)] : shared;
      const vectors = net.isFull ? vectorRows([...net.targets, ...net.norms], rows) : NO_VECTORS;
      const own = this.#toFeeds(new Map([...scales, ...vectors])).feeds;
      complete = { ...joined.feeds, ...own };
      joined.complete.set(scalesKey, complete);
    }
    return complete;
  }

  /** Drops what was kept for a net that is unloaded. */
  forget(netKey: string): void {
    const prefix = JSON.stringify([netKey]).slice(0, -1);
    for (const key of this.#joined.keys()) {
      if (key.startsWith(prefix)) this.#joined.delete(key);
    }
  }

  #join(net: Net, adapters: readonly Adapter[]): Joined {
    const [first] = adapters;
    const isOwn = adapters.length === 1 && this.#choices.compute === "float32";
    const own = isOwn ? first?.factors : undefined;
    const key = JSON.stringify([net.key, ...adapters.map(({ id }) => id)]);
    const known = own === undefined ? this.#joined.get(key) : this.#single.get(own);
    if (known !== undefined) return known;
    const { feeds, bytes } = this.#toFeeds(joinFactors(net.targets, adapters, this.#choices));
    const joined: Joined = { feeds, bytes, complete: new LRUCache({ max: SCALES_MAX }) };
    if (own === undefined) this.#joined.set(key, joined);
    else this.#single.set(own, joined);
    return joined;
  }

  /** Linear layers have factors for each row, convolutions those of all rows. */
  #joinRows(net: Net, rows: readonly (readonly Applied[])[]): Joined {
    const ids = rows.map((row) => activeAdapters([row]).map(({ id }) => id));
    const key = JSON.stringify([net.key, ids]);
    const known = this.#joined.get(key);
    if (known !== undefined) return known;
    const convolutions = net.targets.filter(({ kind }) => kind !== "linear");
    const { feeds, bytes } = this.#toFeeds(
      new Map([
        ...rowFactors(net.targets, rows),
        ...joinFactors(convolutions, activeAdapters(rows), this.#choices),
      ]),
    );
    const joined: Joined = { feeds, bytes, complete: new LRUCache({ max: SCALES_MAX }) };
    this.#joined.set(key, joined);
    return joined;
  }

  #toFeeds(tensors: ReadonlyMap<string, FloatTensor>): { feeds: Feeds; bytes: number } {
    const feeds: Feeds = {};
    let bytes = 0;
    for (const [name, tensor] of tensors) {
      feeds[name] = toOrt(this.#runtime, tensor, this.#choices.compute);
      bytes += tensor.data.byteLength;
    }
    return { feeds, bytes };
  }
}

const NO_VECTORS: ReadonlyMap<string, FloatTensor> = new Map();
const strengthsOf = (row: readonly Applied[]) => row.map(({ id, strength }) => [id, strength]);
