/**
 * What daemon and engine say to each other. A message is a safetensors file: its fields are JSON
 * in `__metadata__.message`, its tensors stand beside it. The engine is started from the same
 * build, so the version in the first messages is compared and the rest is trusted.
 */
import assert from "node:assert/strict";
import type { ErrorCode } from "../kernel/index.ts";
import { LunaError } from "../kernel/index.ts";
import { parseSafetensors, serializeSafetensorsParts, type Tensor } from "../tensor/index.ts";
import type { ComponentName, LoraUse, RunItem, RunOutput } from "./port.ts";
import type { DeviceChoice, ProviderName } from "./providers.ts";

export const PIPE_VERSION = 1;

export type ChildOptions = Readonly<{
  device: DeviceChoice;
  /** Threads inside an operator; the physical cores if not given. */
  threads?: number;
  loraCacheBytesMax: number;
  /** Which of several devices of a kind. */
  deviceIndex?: number;
  /** What the first process found out: a new one serves the same way, without another test. */
  chosen?: Chosen;
}>;

/** The provider that serves, and the form of attention it gets right. */
export type Chosen = Readonly<{ name: ProviderName; attention: "fused" | "plain" }>;

/** A LoRA on the pipe: sent factors are named by digest, their tensors follow when they are new. */
type WireLora = Readonly<{
  source:
    | Extract<LoraUse["source"], { type: "file" }>
    | Readonly<{ type: "factors"; digest: string }>;
  strength: number;
}>;

type WireItem = Readonly<Omit<RunItem, "tensors" | "loras"> & { loras: readonly WireLora[] }>;

export type Request =
  | Readonly<{ type: "load"; path: string; component: ComponentName }>
  | Readonly<{ type: "unload"; path: string; component?: ComponentName }>
  | Readonly<{
      type: "run";
      path: string;
      component: ComponentName;
      items: readonly WireItem[];
      /** Digests of the LoRA factors that come with this frame. */
      factors: readonly string[];
    }>
  | Readonly<{ type: "info" }>;

export type ParentMessage =
  | Readonly<{ type: "start"; version: number; options: ChildOptions }>
  | Readonly<{ type: "request"; id: number; request: Request }>;

/** What the parent tells callers of `info` while the engine is busy. */
export type ChildFacts = Readonly<{
  rssBytes: number;
  loraCache: Readonly<{ entries: number; bytes: number }>;
}>;

export type Result =
  | Readonly<{ type: "load"; bytes: number; ms: number }>
  | Readonly<{ type: "unload" }>
  | Readonly<{ type: "run"; outputs: readonly { warnings: readonly string[] }[]; engineMs: number }>
  | Readonly<{ type: "info" }>;

export type WireError = Readonly<{
  code: ErrorCode;
  message: string;
  details?: Readonly<Record<string, unknown>>;
}>;

export type ChildMessage =
  | Readonly<{ type: "ready"; version: number; chosen: Chosen }>
  | Readonly<{ type: "failed"; error: WireError }>
  | Readonly<{ type: "done"; id: number; result: Result; facts: ChildFacts }>
  | Readonly<{ type: "error"; id: number; error: WireError; facts: ChildFacts }>;

export type Tensors = ReadonlyMap<string, Tensor>;
const NO_TENSORS: Tensors = new Map();

export function encodeMessage(
  message: ParentMessage | ChildMessage,
  tensors: Tensors = NO_TENSORS,
): Uint8Array[] {
  return serializeSafetensorsParts(tensors, { message: JSON.stringify(message) });
}

/** `Message` is what the peer of the same build sends in this direction. */
export function decodeMessage<Message extends ParentMessage | ChildMessage>(
  frame: Uint8Array,
): { message: Message; tensors: Tensors } {
  const { metadata, tensors } = parseSafetensors(frame);
  const text = metadata["message"];
  assert(text !== undefined, "Every frame on the pipe carries a message.");
  return { message: JSON.parse(text) as Message, tensors };
}

export function encodeError(error: LunaError): WireError {
  const { code, message, details } = error;
  return details === undefined ? { code, message } : { code, message, details };
}

export function decodeError(error: WireError): LunaError {
  return new LunaError(
    error.code,
    error.message,
    error.details === undefined ? {} : { details: error.details },
  );
}

const prefixed = (prefix: string, tensors: Tensors): [string, Tensor][] =>
  Array.from(tensors, ([name, tensor]) => [`${prefix}/${name}`, tensor]);

/** Tensors whose names begin with `prefix/`, without it. */
function groupByPrefix(tensors: Tensors): Map<string, Map<string, Tensor>> {
  const groups = new Map<string, Map<string, Tensor>>();
  for (const [name, tensor] of tensors) {
    const slash = name.indexOf("/");
    const prefix = name.slice(0, slash);
    const group = groups.get(prefix) ?? new Map<string, Tensor>();
    groups.set(prefix, group.set(name.slice(slash + 1), tensor));
  }
  return groups;
}

/** Splits items into fields and tensors "<index>/<name>"; new factors are "f<index>/<name>". */
export function encodeItems(
  items: readonly RunItem[],
  isKnown: (digest: string) => boolean,
): { items: readonly WireItem[]; factors: readonly string[]; tensors: Tensors } {
  const tensors = new Map<string, Tensor>();
  const factors = new Set<string>();
  const add = (prefix: string, own: Tensors): void => {
    for (const [name, tensor] of own) tensors.set(`${prefix}/${name}`, tensor);
  };
  const wireItems = items.map(({ tensors: own, loras, ...fields }, index): WireItem => {
    add(String(index), own);
    const wireLoras = loras.map(({ source, strength }): WireLora => {
      if (source.type === "file") return { source, strength };
      const { digest } = source;
      if (!isKnown(digest) && !factors.has(digest)) {
        add(`f${factors.size}`, source.tensors);
        factors.add(digest);
      }
      return { source: { type: "factors", digest }, strength };
    });
    return { ...fields, loras: wireLoras };
  });
  return { items: wireItems, factors: [...factors], tensors };
}

/** Undoes `encodeItems`. Factors are kept with `keep`; those not in the frame come from `recall`. */
export function decodeItems(
  { items, factors }: Pick<Extract<Request, { type: "run" }>, "items" | "factors">,
  tensors: Tensors,
  store: FactorStore,
): RunItem[] {
  const groups = groupByPrefix(tensors);
  // Kept apart from the store: its budget may not hold all that one batch needs.
  const sent = new Map<string, Tensors>();
  for (const [index, digest] of factors.entries()) {
    const own = groups.get(`f${index}`) ?? NO_TENSORS;
    sent.set(digest, own);
    store.keep(digest, own);
  }
  return items.map(({ loras, ...fields }, index) => ({
    ...fields,
    tensors: groups.get(String(index)) ?? NO_TENSORS,
    loras: loras.map(({ source, strength }): LoraUse => {
      if (source.type === "file") return { source, strength };
      const { digest } = source;
      const own = sent.get(digest) ?? store.recall(digest);
      return { source: { type: "factors", digest, tensors: own }, strength };
    }),
  }));
}

/** Where the engine keeps factors that were sent. */
export interface FactorStore {
  keep(digest: string, factors: Tensors): void;
  /** Throws TENSOR_UNKNOWN when they are not kept any more. */
  recall(digest: string): Tensors;
}

export function encodeOutputs(outputs: readonly RunOutput[]): Tensors {
  return new Map(outputs.flatMap(({ tensors }, index) => prefixed(String(index), tensors)));
}

export function decodeOutputs(
  warnings: readonly { warnings: readonly string[] }[],
  tensors: Tensors,
): RunOutput[] {
  const groups = groupByPrefix(tensors);
  return warnings.map((output, index) => ({
    tensors: groups.get(String(index)) ?? NO_TENSORS,
    warnings: output.warnings,
  }));
}
