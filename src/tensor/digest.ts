import { createHash } from "node:crypto";
import type { Tensor } from "./tensor.ts";

/**
 * Content name of a tensor: "sha256:" + hex of SHA-256 over `${dtype}[${shape.join(",")}]` (UTF-8)
 * followed by its bytes. Collision-resistant, because tensors named by digest are shared by clients.
 */
export function digestTensor(tensor: Tensor): string {
  const hash = createHash("sha256").update(`${tensor.dtype}[${tensor.shape.join(",")}]`);
  return `sha256:${hash.update(tensor.bytes).digest("hex")}`;
}
