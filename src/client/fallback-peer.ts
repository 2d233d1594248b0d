import { LunaError } from "../kernel/index.ts";
import { NO_TENSORS, type Op, type RequestBody } from "../protocol/index.ts";
import type { Tensor } from "../tensor/index.ts";
import type { Peer, Reply } from "./peer.ts";
import type { CallOptions } from "./types.ts";

/** A daemon with the instance's own engine behind it: when the daemon is lost for good, that goes on. */
export class FallbackPeer implements Peer {
  readonly #openLocal: () => Promise<Peer>;
  readonly #onFallback: (reason: LunaError) => void;
  #peer: Peer;
  #local: Promise<Peer> | undefined;

  constructor(
    daemon: Peer,
    openLocal: () => Promise<Peer>,
    onFallback: (reason: LunaError) => void,
  ) {
    this.#peer = daemon;
    this.#openLocal = openLocal;
    this.#onFallback = onFallback;
  }

  get era(): object {
    return this.#peer.era;
  }

  async request<Name extends Op>(
    body: RequestBody<Name>,
    tensors: ReadonlyMap<string, Tensor> = NO_TENSORS,
    options: CallOptions = {},
  ): Promise<Reply<Name>> {
    try {
      return await this.#peer.request(body, tensors, options);
    } catch (error) {
      if (!LunaError.isCode(error, "CONNECTION_LOST")) throw error;
      const local = await this.#fallBack(error);
      return local.request(body, tensors, options);
    }
  }

  async close(): Promise<void> {
    await this.#peer.close();
  }

  /** Opens the stand-in once, however many requests failed together. */
  #fallBack(reason: LunaError): Promise<Peer> {
    this.#local ??= this.#openLocal().then((local) => {
      this.#onFallback(reason);
      this.#peer = local;
      return local;
    });
    return this.#local;
  }
}
