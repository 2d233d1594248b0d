import type { Op, RequestBody, ResultData, Timings } from "../protocol/index.ts";
import type { Tensor } from "../tensor/index.ts";
import type { CallOptions } from "./types.ts";

export type Reply<Name extends Op> = Readonly<{
  data: ResultData<Name>;
  tensors: ReadonlyMap<string, Tensor>;
  /** Present for runs of a net. */
  timings?: Timings;
  warnings: readonly string[];
  /** From the call to the answer, in ms. */
  totalMs: number;
}>;

/** Something that answers requests: a connection to a daemon, or one with a stand-in behind it. */
export interface Peer {
  /** Another object after each reconnect or fallback: what the far side remembered is gone. */
  readonly era: object;
  /** Rejects with the daemon's error, CANCELLED, DEADLINE_EXCEEDED or CONNECTION_LOST. */
  request<Name extends Op>(
    body: RequestBody<Name>,
    tensors?: ReadonlyMap<string, Tensor>,
    options?: CallOptions,
  ): Promise<Reply<Name>>;
  close(): Promise<void>;
}
