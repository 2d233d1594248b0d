/**
 * What clients have sent once to name it later: tensors and LoRA factors, by digest, shared by all
 * sessions. A digest says everything about its content, so sharing tells nobody anything. Both are
 * byte-bounded and forget what was used longest ago; the client is told and sends it again.
 */
import { createHash } from "node:crypto";
import { LRUCache } from "lru-cache";
import { LunaError } from "../kernel/index.ts";
import { digestTensor, type Tensor } from "../tensor/index.ts";
import { isWireDType, toF32 } from "./float-tensors.ts";
import { LORA_STORE_BYTES_MAX, TENSOR_STORE_BYTES_MAX } from "./limits.ts";
import { type LoraFactors, parseLoraFactors } from "./lora-factors.ts";

export type TensorStoreLimits = Readonly<{ tensorBytesMax?: number; loraBytesMax?: number }>;

export class TensorStore {
  readonly #tensors: LRUCache<string, Tensor>;
  readonly #loras: LRUCache<string, LoraFactors>;

  constructor({
    tensorBytesMax = TENSOR_STORE_BYTES_MAX,
    loraBytesMax = LORA_STORE_BYTES_MAX,
  }: TensorStoreLimits = {}) {
    this.#tensors = new LRUCache({
      maxSize: tensorBytesMax,
      sizeCalculation: (tensor) => Math.max(1, tensor.bytes.byteLength),
    });
    this.#loras = new LRUCache({
      maxSize: loraBytesMax,
      sizeCalculation: (lora) => Math.max(1, lora.bytes),
    });
  }

  /** Keeps a tensor under its digest. Throws TENSOR_MALFORMED when the name is not its digest. */
  put(digest: string, tensor: Tensor): void {
    const actual = digestTensor(tensor);
    if (actual !== digest) {
      throw new LunaError(
        "TENSOR_MALFORMED",
        `A tensor is named "${digest.slice(0, 80)}", its digest is ${actual}.`,
      );
    }
    if (!isWireDType(tensor.dtype)) toF32(digest, tensor);
    // A copy: the bytes are a view that would keep the whole frame in memory. In float32, so that
    // one that comes each step is converted once.
    const own = tensor.dtype === "F32" ? copyOf(tensor) : toF32(digest, tensor);
    keep({ cache: this.#tensors, setting: "tensorStoreMiB" }, digest, own);
  }

  /** Keeps a set of LoRA factors and returns the digest that names it. */
  putLora(tensors: ReadonlyMap<string, Tensor>): string {
    const copies = [...tensors].map(([name, tensor]) => [name, copyOf(tensor)] as const);
    const factors = parseLoraFactors(new Map(copies));
    const digest = digestSet(tensors);
    keep({ cache: this.#loras, setting: "loraCacheMiB" }, digest, factors);
    return digest;
  }

  get(digest: string): Tensor | undefined {
    return this.#tensors.get(digest);
  }

  getLora(digest: string): LoraFactors | undefined {
    return this.#loras.get(digest);
  }

  get state(): Readonly<{ entries: number; bytes: number; bytesMax: number }> {
    return {
      entries: this.#tensors.size + this.#loras.size,
      bytes: this.#tensors.calculatedSize + this.#loras.calculatedSize,
      bytesMax: this.#tensors.maxSize + this.#loras.maxSize,
    };
  }
}

function keep<V extends object>(
  { cache, setting }: Readonly<{ cache: LRUCache<string, V>; setting: string }>,
  digest: string,
  value: V,
): void {
  cache.set(digest, value);
  if (cache.has(digest)) return;
  throw new LunaError(
    "LIMIT_EXCEEDED",
    `The daemon holds at most ${cache.maxSize} bytes by digest, too few for this: raise ${setting}.`,
  );
}

function copyOf(tensor: Tensor): Tensor {
  return { ...tensor, bytes: Uint8Array.from(tensor.bytes) };
}

/** "sha256:" + hex over the lines "<name> <digest of the tensor>\n", sorted by name. */
export function digestSet(tensors: ReadonlyMap<string, Tensor>): string {
  const hash = createHash("sha256");
  for (const name of [...tensors.keys()].sort()) {
    const tensor = tensors.get(name);
    if (tensor) hash.update(`${name} ${digestTensor(tensor)}\n`);
  }
  return `sha256:${hash.digest("hex")}`;
}
