/** What the daemon does for each operation; docs/protocol.md says it to clients. */
import { LunaError } from "../kernel/index.ts";
import {
  type DaemonStatus,
  NO_TENSORS,
  type Op,
  type Request,
  type ResultData,
  type Timings,
} from "../protocol/index.ts";
import { ALL_KINDS } from "../registry/index.ts";
import type { Tensor } from "../tensor/index.ts";
import type { Allowances } from "./allowances.ts";
import type { EventHub } from "./event-hub.ts";
import { UPLOADS_PER_SESSION_MAX } from "./limits.ts";
import { describeModel } from "./model-info.ts";
import type { NetRunner, RunRequest } from "./net-runner.ts";
import type { DaemonOptions } from "./ports.ts";
import type { SessionStats } from "./session-stats.ts";
import type { TensorStore } from "./tensor-store.ts";
import { Upload } from "./uploads.ts";
import type { Outlet, WatchDesk } from "./watch-desk.ts";

/** What operations share. */
export type Services = Readonly<{
  options: DaemonOptions;
  store: TensorStore;
  runner: NetRunner;
  status: () => Promise<DaemonStatus>;
  events: EventHub;
  watches: WatchDesk;
  allowances: Allowances;
}>;

/** Who asks, and with what. */
export type Call = Readonly<{
  client: string;
  /** The name its client greeted with. */
  name: string;
  tensors: ReadonlyMap<string, Tensor>;
  signal: AbortSignal;
  stats: SessionStats;
  /** Uploads of this session under way. */
  uploads: Map<string, Upload>;
  /** Where events of a watch go. */
  outlet: Outlet;
}>;

export type Answer = Readonly<{
  data: ResultData<Op>;
  tensors: ReadonlyMap<string, Tensor>;
  timings?: Timings;
  warnings?: readonly string[];
}>;

/** Operations without tensors of their own are answered with data only. */
const only = (data: ResultData<Op>): Answer => ({ data, tensors: NO_TENSORS });

/** Carries out one request. Everything it throws becomes the error of that request. */
export async function operate(request: Request, call: Call, services: Services): Promise<Answer> {
  const { registry } = services.options;
  switch (request.op) {
    case "model_forward":
    case "clip_encode":
    case "vae_encode":
    case "vae_decode":
      return runNet(request, call, services);
    case "register_model_by_path":
      return describe(placeOf(request), services);
    case "register_checkpoint":
      await registry.preload(placeOf(request));
      return describe(placeOf(request), services);
    case "preload":
      await registry.preload(request.model, request.components);
      return describe(request.model, services);
    case "register_model":
      return receive(request, call, services);
    case "put_tensors":
      for (const [digest, tensor] of call.tensors) services.store.put(digest, tensor);
      return only({});
    case "put_lora":
      return only({ digest: services.store.putLora(call.tensors) });
    case "list":
      return list(services);
    case "unload":
    case "pin":
    case "unpin":
      await registry[request.op](request.model);
      return only({});
    case "status":
      return only({ status: await services.status() });
    case "watch":
      return services.watches.watch(call.outlet, call.signal);
    case "ping":
      return only({});
  }
}

async function runNet(request: RunRequest, call: Call, { runner }: Services): Promise<Answer> {
  if (request.op === "model_forward") {
    const loras = request.loras ?? [];
    call.stats.setLoras(
      loras.map((lora) => ({
        name: "name" in lora ? lora.name : lora.digest,
        strength: lora.strength,
      })),
    );
  }
  return { data: {}, ...(await runner.run(request, call)) };
}

function placeOf({ op, path, name }: Request<"register_model_by_path" | "register_checkpoint">) {
  const place = path ?? name;
  if (place !== undefined && (path === undefined || name === undefined)) return place;
  throw new LunaError("REQUEST_INVALID", `${op} needs either "path" or "name".`);
}

async function describe(reference: string, { options }: Services): Promise<Answer> {
  return only({ model: describeModel(await options.registry.describe(reference)) });
}

async function list({ options: { registry } }: Services): Promise<Answer> {
  const models = await registry.list();
  const others = await registry.list(
    ALL_KINDS.filter((kind) => kind === "loras" || kind === "embeddings"),
  );
  const namesOf = (kind: string) =>
    others.filter((file) => file.kind === kind).map((file) => file.name);
  return only({
    models: models.map(({ id, bytes, nets }) => ({ id, bytes, isLoaded: nets.length > 0 })),
    loras: namesOf("loras"),
    embeddings: namesOf("embeddings"),
  });
}

async function receive(
  { upload: name, offset, last }: Request<"register_model">,
  { uploads, tensors }: Call,
  services: Services,
): Promise<Answer> {
  const { uploadFolder, uploadLimits } = services.options;
  if (uploadFolder === undefined) {
    throw new LunaError("CONFIG_INVALID", "This daemon has no folder for uploaded models.");
  }
  const known = uploads.get(name);
  if (!known && uploads.size >= UPLOADS_PER_SESSION_MAX) {
    const message = `${uploads.size} uploads are under way, limit ${UPLOADS_PER_SESSION_MAX}.`;
    throw new LunaError("LIMIT_EXCEEDED", message);
  }
  const upload = known ?? (await Upload.open(uploadFolder, uploadLimits));
  uploads.set(name, upload);
  try {
    if (offset !== upload.bytes) {
      const message = `Upload "${name}" is at ${upload.bytes} bytes, not ${offset}: begin it again.`;
      throw new LunaError("REQUEST_INVALID", message);
    }
    await upload.add(tensors);
    if (!last) return only({ received: upload.bytes });
    const path = await upload.finish();
    uploads.delete(name);
    const model = describeModel(await services.options.registry.describe(path));
    return only({ received: upload.bytes, model });
  } catch (error) {
    uploads.delete(name);
    await upload.abandon();
    throw error;
  }
}
