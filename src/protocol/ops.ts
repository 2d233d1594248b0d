/**
 * The operations: what a request carries beside `type`, `id` and `op`, and the `data` of its result.
 * docs/protocol.md has the same table; ops.test.ts compares them. The seed's names are kept.
 */
import { z } from "zod";
import { LunaError } from "../kernel/index.ts";
import { NAME_LENGTH_MAX } from "./limits.ts";
import {
  componentSchema,
  controlsSchema,
  deadlineSchema,
  digestSchema,
  encoderSchema,
  featuresSchema,
  layerSchema,
  listSchema,
  lorasSchema,
  modelInfoSchema,
  nameSchema,
  prioritySchema,
  refsSchema,
  statusSchema,
  tileSchema,
} from "./schemas.ts";

const nothing = z.object({});
const oneModel = { model: nameSchema };
/** How a run stands in the queue. */
const standing = {
  priority: prioritySchema.exactOptional(),
  deadlineMs: deadlineSchema.exactOptional(),
};
const modelData = z.object({ model: modelInfoSchema });
const place = { path: nameSchema.exactOptional(), name: nameSchema.exactOptional() };

export const OPS = {
  register_model_by_path: { request: place, data: modelData },
  register_checkpoint: { request: place, data: modelData },
  register_model: {
    request: {
      upload: z.string().min(1).max(NAME_LENGTH_MAX),
      /** Bytes of tensors sent before this frame; a daemon that has others refuses to go on. */
      offset: z.int().nonnegative(),
      last: z.boolean(),
    },
    data: z.object({ received: z.number(), model: modelInfoSchema.exactOptional() }),
  },
  model_forward: {
    request: {
      ...oneModel,
      loras: lorasSchema.exactOptional(),
      features: featuresSchema.exactOptional(),
      controls: controlsSchema.exactOptional(),
      refs: refsSchema.exactOptional(),
      ...standing,
    },
    data: nothing,
  },
  clip_encode: {
    request: {
      ...oneModel,
      encoder: encoderSchema,
      layer: layerSchema,
      isLayerNormed: z.boolean(),
      loras: lorasSchema.exactOptional(),
      refs: refsSchema.exactOptional(),
      ...standing,
    },
    data: nothing,
  },
  vae_encode: {
    request: {
      ...oneModel,
      tile: tileSchema.exactOptional(),
      refs: refsSchema.exactOptional(),
      ...standing,
    },
    data: nothing,
  },
  vae_decode: {
    request: {
      ...oneModel,
      tile: tileSchema.exactOptional(),
      refs: refsSchema.exactOptional(),
      ...standing,
    },
    data: nothing,
  },
  put_tensors: { request: {}, data: nothing },
  put_lora: { request: {}, data: z.object({ digest: digestSchema }) },
  list: { request: {}, data: listSchema },
  preload: {
    request: {
      ...oneModel,
      components: z
        .array(componentSchema)
        .min(1)
        .max(componentSchema.options.length)
        .exactOptional(),
    },
    data: modelData,
  },
  unload: { request: oneModel, data: nothing },
  pin: { request: oneModel, data: nothing },
  unpin: { request: oneModel, data: nothing },
  status: { request: {}, data: z.object({ status: statusSchema }) },
  /** Never answered with a result: events come until it is cancelled. */
  watch: { request: {}, data: nothing },
  ping: { request: {}, data: nothing },
} as const;

export type Op = keyof typeof OPS;

type Shape<Name extends Op> = (typeof OPS)[Name]["request"];
/** Zod infers Record<string, never> for an object without fields, which nothing can extend. */
type Fields<Name extends Op> = keyof Shape<Name> extends never
  ? unknown
  : z.infer<z.ZodObject<Shape<Name>>>;

/** A request without its envelope: `{ op: "unload", model: "checkpoints/a.safetensors" }`. */
export type RequestBody<Name extends Op = Op> = { [K in Name]: { op: K } & Fields<K> }[Name];

/** What a result of `Name` carries under `data`. */
export type ResultData<Name extends Op> = z.infer<(typeof OPS)[Name]["data"]>;

export function isOp(name: unknown): name is Op {
  return typeof name === "string" && Object.hasOwn(OPS, name);
}

/** Checks what a daemon answered to `op`. Throws FRAME_MALFORMED. */
export function parseResultData<Name extends Op>(op: Name, data: unknown): ResultData<Name> {
  const parsed = OPS[op].data.safeParse(data);
  // The schema is the one of `op`, which the union of all schemas hides.
  if (parsed.success) return parsed.data as ResultData<Name>;
  throw new LunaError("FRAME_MALFORMED", `The daemon's answer to ${op} cannot be read.`, {
    cause: parsed.error,
  });
}
