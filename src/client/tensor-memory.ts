/**
 * Which tensors a daemon has been given, so that what repeats each step (context, y, residuals)
 * travels once. An array seen for the first time goes inside the request; when the same array comes
 * again it is put under its digest, and named from then on: what is used once is never hashed.
 * Arrays are told apart by identity and must not change after they were handed over.
 */
import { digestTensor, type FloatTensor, fromFloat, type Tensor } from "../tensor/index.ts";
import { DIGESTS_KNOWN_MAX, SHARED_TENSOR_BYTES_MIN } from "./limits.ts";

export type TensorPlan = Readonly<{
  inline: ReadonlyMap<string, Tensor>;
  /** Slot to digest. */
  refs: Readonly<Record<string, string>>;
  /** Tensors by digest to put before the request. */
  puts: ReadonlyMap<string, Tensor>;
}>;

export class TensorMemory {
  readonly #digests = new WeakMap<Float32Array, { shape: string; digest: string }>();
  readonly #seen = new WeakSet<Float32Array>();
  #era: object | undefined;
  #known = new Set<string>();

  /** How to send `slots` to the daemon of `era`, taking for granted that the puts will succeed. */
  plan(era: object, slots: ReadonlyMap<string, FloatTensor>): TensorPlan {
    if (this.#era !== era || this.#known.size > DIGESTS_KNOWN_MAX) this.#known = new Set();
    this.#era = era;
    const inline = new Map<string, Tensor>();
    const refs: Record<string, string> = {};
    const puts = new Map<string, Tensor>();
    for (const [slot, tensor] of slots) {
      if (!this.#seen.has(tensor.data) || tensor.data.byteLength < SHARED_TENSOR_BYTES_MIN) {
        inline.set(slot, fromFloat(tensor));
        continue;
      }
      const digest = this.#digestOf(tensor);
      refs[slot] = digest;
      if (!this.#known.has(digest)) puts.set(digest, fromFloat(tensor));
      this.#known.add(digest);
    }
    for (const { data } of slots.values()) this.#seen.add(data);
    return { inline, refs, puts };
  }

  /** The daemon does not have these (any more). */
  forget(digests: Iterable<string>): void {
    for (const digest of digests) this.#known.delete(digest);
  }

  #digestOf(tensor: FloatTensor): string {
    const shape = tensor.shape.join(",");
    const cached = this.#digests.get(tensor.data);
    if (cached?.shape === shape) return cached.digest;
    const digest = digestTensor(fromFloat(tensor));
    this.#digests.set(tensor.data, { shape, digest });
    return digest;
  }
}
