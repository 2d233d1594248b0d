import { LunaError } from "../kernel/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { UPLOAD_FRAME_BYTES } from "./limits.ts";
import type { Peer } from "./peer.ts";
import type { ModelInfo } from "./types.ts";

let uploads = 0;
/** Daemons that may be lost one after another before an upload is given up. */
const ATTEMPTS_MAX = 3;

/**
 * Sends tensors in frames of some size; each waits for the answer to the one before it. Begins again
 * when the daemon was started again meanwhile, where the tensors can be gone through again.
 */
export async function uploadModel(
  peer: Peer,
  tensors: Iterable<readonly [string, Tensor]>,
): Promise<ModelInfo> {
  for (let attempt = 1; ; attempt++) {
    const { era } = peer;
    try {
      return await uploadOnce(peer, tensors);
    } catch (error) {
      const isOnce = Object.is(tensors[Symbol.iterator](), tensors);
      if (peer.era === era || isOnce || attempt === ATTEMPTS_MAX) throw error;
    }
  }
}

async function uploadOnce(
  peer: Peer,
  tensors: Iterable<readonly [string, Tensor]>,
): Promise<ModelInfo> {
  const upload = `upload-${++uploads}`;
  let frame = new Map<string, Tensor>();
  let [bytes, offset] = [0, 0];
  for (const [name, tensor] of tensors) {
    if (bytes > 0 && bytes + tensor.bytes.byteLength > UPLOAD_FRAME_BYTES) {
      await peer.request({ op: "register_model", upload, offset, last: false }, frame);
      frame = new Map();
      offset += bytes;
      bytes = 0;
    }
    frame.set(name, tensor);
    bytes += tensor.bytes.byteLength;
  }
  const { data } = await peer.request({ op: "register_model", upload, offset, last: true }, frame);
  if (data.model) return data.model;
  throw new LunaError("FRAME_MALFORMED", "The daemon answered a finished upload without a model.");
}
