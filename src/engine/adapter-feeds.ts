/**
 * The adapter inputs of a graph as ONNX Runtime takes them, some hundred for each net. Factors
 * depend on which adapters a batch uses, scales on strengths too: both are kept, since the steps
 * of a picture repeat them.
 */
import { LRUCache } from "lru-cache";
import type { AdapterTarget, OpChoices } from "../graph/index.ts";
import { type Applied, activeAdapters, joinFactors, scaleRows } from "../lora/index.ts";
import type { FloatTensor } from "../tensor/index.ts";
import { SCALE_FEEDS_MAX } from "./limits.ts";
import { type Feeds, type Runtime, toOrt } from "./runtime.ts";

type Net = Readonly<{ key: string; targets: readonly AdapterTarget[] }>;

export class AdapterFeeds {
  readonly #runtime: Runtime;
  readonly #choices: OpChoices;
  readonly #factors: LRUCache<string, { feeds: Feeds; bytes: number }>;
  readonly #scales = new LRUCache<string, Feeds>({ max: SCALE_FEEDS_MAX });

  constructor(runtime: Runtime, choices: OpChoices, bytesMax: number) {
    this.#runtime = runtime;
    this.#choices = choices;
    this.#factors = new LRUCache({ maxSize: bytesMax, sizeCalculation: ({ bytes }) => bytes });
  }

  /** Inputs for a batch; `rows` holds for each batch row the adapters on it. */
  feeds(net: Net, rows: readonly (readonly Applied[])[]): Feeds {
    const adapters = activeAdapters(rows);
    const factorsKey = JSON.stringify([net.key, adapters.map(({ id }) => id)]);
    const known = this.#factors.get(factorsKey);
    const factors = known ?? this.#toFeeds(joinFactors(net.targets, adapters, this.#choices));
    if (known === undefined) this.#factors.set(factorsKey, factors);
    const strengths = rows.map((row) => row.map(({ id, strength }) => [id, strength]));
    const scalesKey = `${factorsKey}${JSON.stringify(adapters.length > 0 ? strengths : rows.length)}`;
    let scales = this.#scales.get(scalesKey);
    if (scales === undefined) {
      const options = { rows, choices: this.#choices };
      scales = this.#toFeeds(scaleRows(net.targets, adapters, options)).feeds;
      this.#scales.set(scalesKey, scales);
    }
    return { ...factors.feeds, ...scales };
  }

  /** Drops what was kept for a net that is unloaded. */
  forget(netKey: string): void {
    const prefix = JSON.stringify([netKey]).slice(0, -1);
    for (const cache of [this.#factors, this.#scales]) {
      for (const key of [...cache.keys()]) if (key.startsWith(prefix)) cache.delete(key);
    }
  }

  #toFeeds(tensors: ReadonlyMap<string, FloatTensor>): { feeds: Feeds; bytes: number } {
    const feeds: Feeds = {};
    let bytes = 1;
    for (const [name, tensor] of tensors) {
      feeds[name] = toOrt(this.#runtime, tensor, this.#choices.compute);
      bytes += tensor.data.byteLength;
    }
    return { feeds, bytes };
  }
}
