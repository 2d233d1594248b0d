import type { Engine } from "../engine/index.ts";
import type { Logger, TokenGrant } from "../kernel/index.ts";
import type { ModelRegistry } from "../registry/index.ts";
import type { UploadLimits } from "./uploads.ts";

/** What the server needs of the registry. */
export type ServedModels = Pick<
  ModelRegistry,
  | "describe"
  | "acquire"
  | "preload"
  | "unload"
  | "pin"
  | "unpin"
  | "list"
  | "resolveLora"
  | "evictIdle"
>;

export type DaemonOptions = Readonly<{
  registry: ServedModels;
  engine: Pick<Engine, "run" | "info" | "lanes" | "prepare">;
  /** Version of this package. */
  version: string;
  logger?: Logger;
  /** Clients must show one of them; required to listen on other than loopback addresses. */
  tokens?: readonly TokenGrant[];
  /** Where uploaded UNets are kept: below one of the registry's diffusion_models folders. */
  uploadFolder?: string;
  uploadLimits?: UploadLimits;
  /** Budgets of what clients name by digest: tensors, and factors of LoRAs. */
  tensorBytesMax?: number;
  loraBytesMax?: number;
  /** Rows of a run; not given, they are measured for each shape. */
  batchRows?: number;
  /** Shares of clients by the name they greet with; 1 for all others. */
  clientWeights?: ReadonlyMap<string, number>;
  /** Milliseconds of a steady clock. */
  now?: () => number;
}>;
