/**
 * What daemon and engine say to each other. A message is a safetensors file: its fields are JSON
 * in `__metadata__.message`, its tensors stand beside it. The engine is started from the same
 * build, so the version in the first messages is compared and the rest is trusted.
 */
import assert from "node:assert/strict";
import type { ErrorCode } from "../kernel/index.ts";
import { LunaError } from "../kernel/index.ts";
import { parseSafetensors, serializeSafetensorsParts, type Tensor } from "../tensor/index.ts";
import { SHARED_TENSOR_BYTES_EACH_MAX } from "./limits.ts";
import type { ComponentName, LoraUse, RunItem, RunOutput } from "./port.ts";
import type { DeviceChoice, ProviderName } from "./providers.ts";
import type { FileSource } from "./ready-loras.ts";

export const PIPE_VERSION = 2;

export type ChildOptions = Readonly<{
  device: DeviceChoice;
  /** Threads inside an operator; the physical cores if not given. */
  threads?: number;
  loraCacheBytesMax: number;
  memoryBytesMax?: number;
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

type WireItem = Readonly<
  Omit<RunItem, "tensors" | "digests" | "loras"> & {
    loras: readonly WireLora[];
    /** Digests of tensors that are sent once, by name. */
    shared?: Readonly<Record<string, string>>;
  }
>;

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
      /** Digests of the shared tensors that come with this frame. */
      shared: readonly string[];
    }>
  /** Answered at once; each file is followed by a message of its own when it is read. */
  | Readonly<{
      type: "prepare";
      path: string;
      component: ComponentName;
      sources: readonly FileSource[];
    }>
  | Readonly<{ type: "info" }>;

type RunRequest = Extract<Request, { type: "run" }>;

export type ParentMessage =
  | Readonly<{ type: "start"; version: number; options: ChildOptions }>
  | Readonly<{ type: "request"; id: number; request: Request }>;

/** What the parent tells callers of `info` while the engine is busy. */
export type ChildFacts = Readonly<{
  rssBytes: number;
  loraCache: Readonly<{ entries: number; bytes: number }>;
  overlays: Readonly<{ entries: number; bytes: number }>;
  /** Adapter files dropped since the last message, as `fileKey` names them. */
  forgottenLoras: readonly string[];
}>;

export type Result =
  | Readonly<{ type: "load"; bytes: number; ms: number }>
  | Readonly<{ type: "unload" }>
  | Readonly<{ type: "run"; outputs: readonly { warnings: readonly string[] }[]; engineMs: number }>
  | Readonly<{ type: "prepare" }>
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
  | Readonly<{ type: "error"; id: number; error: WireError; facts: ChildFacts }>
  | Readonly<{ type: "prepared"; file: string; path: string; error?: WireError }>;

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

/**
 * Splits items into fields and tensors "<index>/<name>"; what goes by digest and is new stands
 * apart: factors as "f<index>/<name>", shared tensors as "s<index>/".
 */
export function encodeItems(
  items: readonly RunItem[],
  isKnown: (digest: string) => boolean,
): Pick<RunRequest, "items" | "factors" | "shared"> & { tensors: Tensors } {
  const tensors = new Map<string, Tensor>();
  const factors = new Set<string>();
  const shared = new Set<string>();
  const wireItems = items.map(({ tensors: own, digests, loras, ...fields }, index): WireItem => {
    const names: Record<string, string> = {};
    for (const [name, tensor] of own) {
      const digest = digests?.get(name);
      if (digest === undefined || tensor.bytes.byteLength > SHARED_TENSOR_BYTES_EACH_MAX) {
        tensors.set(`${index}/${name}`, tensor);
        continue;
      }
      names[name] = digest;
      if (isKnown(digest) || shared.has(digest)) continue;
      tensors.set(`s${shared.size}/`, tensor);
      shared.add(digest);
    }
    const wireLoras = loras.map(({ source, strength }): WireLora => {
      if (source.type === "file") return { source, strength };
      const { digest } = source;
      if (!isKnown(digest) && !factors.has(digest)) {
        for (const [name, tensor] of source.tensors)
          tensors.set(`f${factors.size}/${name}`, tensor);
        factors.add(digest);
      }
      return { source: { type: "factors", digest }, strength };
    });
    return { ...fields, loras: wireLoras, ...(digests === undefined ? {} : { shared: names }) };
  });
  return { items: wireItems, factors: [...factors], shared: [...shared], tensors };
}

/** Undoes `encodeItems`. What goes by digest is kept in `stores`; what is not in the frame comes from there. */
export function decodeItems(
  { items, factors, shared }: Pick<RunRequest, "items" | "factors" | "shared">,
  tensors: Tensors,
  stores: { factors: KeptByDigest<Tensors>; shared: KeptByDigest<Tensor> },
): RunItem[] {
  const groups = groupByPrefix(tensors);
  const factorsOf = received(
    factors,
    stores.factors,
    (index) => groups.get(`f${index}`) ?? NO_TENSORS,
  );
  const sharedOf = received(shared, stores.shared, (index) => groups.get(`s${index}`)?.get(""));
  return items.map(({ loras, shared: names, ...fields }, index) => {
    const own = new Map(groups.get(String(index)));
    for (const [name, digest] of Object.entries(names ?? {})) own.set(name, sharedOf(digest));
    const uses = loras.map(({ source, strength }): LoraUse => {
      if (source.type === "file") return { source, strength };
      const { digest } = source;
      return { source: { type: "factors", digest, tensors: factorsOf(digest) }, strength };
    });
    const digests = names === undefined ? {} : { digests: new Map(Object.entries(names)) };
    return { ...fields, tensors: own, ...digests, loras: uses };
  });
}

/** Keeps what a frame brings, and finds a value in the frame first: the store may not hold it all. */
function received<T extends Tensor | Tensors>(
  digests: readonly string[],
  store: KeptByDigest<T>,
  valueAt: (index: number) => T | undefined,
): (digest: string) => T {
  const sent = new Map<string, T>();
  for (const [index, digest] of digests.entries()) {
    const value = valueAt(index);
    if (value === undefined) continue;
    sent.set(digest, value);
    store.keep(digest, value);
  }
  return (digest) => sent.get(digest) ?? store.recall(digest);
}

/** Where the engine keeps what was sent by digest. */
export interface KeptByDigest<T> {
  keep(digest: string, value: T): void;
  /** Throws TENSOR_UNKNOWN when it is not kept any more. */
  recall(digest: string): T;
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
