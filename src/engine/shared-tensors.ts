import { LRUCache } from "lru-cache";
import { LunaError } from "../kernel/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { SHARED_TENSOR_BYTES_MAX } from "./limits.ts";
import type { KeptByDigest } from "./messages.ts";

/** Tensors that a client sends with every step, by digest; least recently used out first. */
export class SharedTensors implements KeptByDigest<Tensor> {
  readonly #kept: LRUCache<string, Tensor>;

  constructor(bytesMax = SHARED_TENSOR_BYTES_MAX) {
    this.#kept = new LRUCache({
      maxSize: bytesMax,
      sizeCalculation: ({ bytes }) => Math.max(1, bytes.byteLength),
    });
  }

  /** A copy: a view would keep its whole frame in memory. */
  keep(digest: string, tensor: Tensor): void {
    this.#kept.set(digest, { ...tensor, bytes: Uint8Array.from(tensor.bytes) });
  }

  recall(digest: string): Tensor {
    const known = this.#kept.get(digest);
    if (known !== undefined) return known;
    throw new LunaError("TENSOR_UNKNOWN", `The tensor ${digest} is not kept any more.`, {
      details: { digests: [digest] },
    });
  }
}
