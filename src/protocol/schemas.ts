/** The values messages are made of. Requests are strict: a field nobody knows is an error. */
import { z } from "zod";
import {
  CONTROL_ROWS_MAX,
  CONTROL_STRENGTH_MAX,
  CONTROL_TYPES_MAX,
  CONTROLS_MAX,
  DEADLINE_MS_MAX,
  FREEU_SCALE_MAX,
  LAYERS_MAX,
  LORAS_MAX,
  NAME_LENGTH_MAX,
  PAG_BLOCKS_MAX,
  STRENGTH_MAX,
  TILE_PIXELS_MAX,
  TILE_PIXELS_MIN,
} from "./limits.ts";

export const nameSchema = z.string().min(1).max(NAME_LENGTH_MAX);
export const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/);
export const requestIdSchema = z.int().nonnegative();

const strength = z.number().min(-STRENGTH_MAX).max(STRENGTH_MAX);

/** A LoRA in a request: a file the daemon knows by name, or factors the client has put. */
export const loraSchema = z.union([
  z.strictObject({ name: nameSchema, strength }),
  z.strictObject({ digest: digestSchema, strength }),
]);
export type LoraSpec = z.infer<typeof loraSchema>;

export const lorasSchema = z.array(loraSchema).max(LORAS_MAX);
export const refsSchema = z.record(nameSchema, digestSchema);
export const encoderSchema = z.enum(["clip-l", "clip-h", "clip-g"]);
export const componentSchema = z.enum([
  "unet",
  "clip-l",
  "clip-g",
  "clip-h",
  "vae-encoder",
  "vae-decoder",
  "control-hint",
  "control-net",
]);
export const prioritySchema = z.enum(["interactive", "normal", "bulk"]);
/** Milliseconds after its arrival at which nobody wants the result any more. */
export const deadlineSchema = z.int().min(1).max(DEADLINE_MS_MAX);
export const layerSchema = z.int().min(-LAYERS_MAX).max(-1);

/** Both in pixels. Tiles overlap by `overlap` and are blended with linear ramps. */
export const tileSchema = z.strictObject({
  size: z.int().min(TILE_PIXELS_MIN).max(TILE_PIXELS_MAX),
  overlap: z.int().min(0).max(TILE_PIXELS_MAX),
});
/** What ComfyUI's nodes FreeU, FreeU_V2 and PerturbedAttentionGuidance do inside the UNet. */
const freeuScale = z.number().min(-FREEU_SCALE_MAX).max(FREEU_SCALE_MAX);
export const featuresSchema = z.strictObject({
  freeu: z
    .strictObject({
      version: z.union([z.literal(1), z.literal(2)]),
      b1: freeuScale,
      b2: freeuScale,
      s1: freeuScale,
      s2: freeuScale,
    })
    .exactOptional(),
  pag: z
    .strictObject({
      blocks: z
        .array(z.string().regex(/^(middle\.0|(input|output)\.\d{1,2})(\.\d{1,2})?$/))
        .min(1)
        .max(PAG_BLOCKS_MAX),
    })
    .exactOptional(),
});
export type Features = z.infer<typeof featuresSchema>;

/** A ControlNet or T2I-Adapter that acts on a step; its hint is the tensor `hint.N`, N its place in the list. */
export const controlSchema = z.strictObject({
  model: nameSchema,
  strength: z.number().min(-CONTROL_STRENGTH_MAX).max(CONTROL_STRENGTH_MAX),
  /** Kind of hint, for a Union net. */
  type: z.int().min(0).max(CONTROL_TYPES_MAX).exactOptional(),
  /** Rows of x that it acts on. */
  rows: z.array(z.int().min(0).max(CONTROL_ROWS_MAX)).min(1).max(CONTROL_ROWS_MAX).exactOptional(),
});
export type ControlSpec = z.infer<typeof controlSchema>;
export const controlsSchema = z.array(controlSchema).min(1).max(CONTROLS_MAX);

export type Tile = z.infer<typeof tileSchema>;

/** What a client needs to know of a checkpoint: enough to sample, encode and decode. */
export const modelInfoSchema = z.object({
  id: z.string(),
  family: z.enum(["sd1", "sd2", "sdxl", "sdxl-refiner"]).exactOptional(),
  prediction: z.enum(["eps", "v", "edm"]),
  isZeroTerminalSnr: z.boolean(),
  latentScale: z.number(),
  dtype: z.string(),
  bytes: z.number(),
  unet: z
    .object({
      inChannels: z.number(),
      outChannels: z.number(),
      contextDim: z.number(),
      admChannels: z.number(),
      modelChannels: z.number(),
    })
    .exactOptional(),
  textEncoders: z.array(
    z.object({
      kind: encoderSchema,
      width: z.number(),
      layers: z.number(),
      projection: z.number(),
    }),
  ),
  vae: z
    .object({
      kind: z.enum(["kl", "taesd"]),
      latentChannels: z.number(),
      downscale: z.number(),
      hasEncoder: z.boolean(),
      hasDecoder: z.boolean(),
    })
    .exactOptional(),
  control: z
    .object({
      kind: z.enum(["controlnet", "t2i-adapter"]),
      hintChannels: z.number(),
      hintMultiple: z.number(),
      unionTypes: z.number(),
    })
    .exactOptional(),
});

const percentiles = z.object({ p50: z.number(), p95: z.number() });

/** A session as `status` tells it. */
const sessionStatusSchema = z.object({
  id: z.string(),
  name: z.string(),
  version: z.string(),
  /** Where the client told it. */
  pid: z.number().exactOptional(),
  connectedMs: z.number(),
  pending: z.number(),
  steps: z.number(),
  /** LoRAs of the session's latest step, by name or digest. */
  loras: z.array(z.object({ name: z.string(), strength: z.number() })),
  /** Time a step spends in the daemon outside the queue and the engine's session. */
  overheadMs: percentiles,
  queueMs: percentiles,
});

export const statusSchema = z.object({
  daemon: z.object({
    version: z.string(),
    pid: z.number(),
    uptimeMs: z.number(),
    rssBytes: z.number(),
  }),
  models: z.array(
    z.object({
      id: z.string(),
      /** Copies of the weights in memory: 1 when loaded, 0 when not. */
      copies: z.number(),
      bytes: z.number(),
      users: z.number(),
      isPinned: z.boolean(),
      components: z.array(componentSchema),
    }),
  ),
  sessions: z.array(sessionStatusSchema),
  queue: z.object({ depth: z.number(), depthMax: z.number(), running: z.number() }),
  /** Number of engine runs by rows and by clients of the batch. */
  batches: z.object({
    total: z.number(),
    rows: z.record(z.string(), z.number()),
    clients: z.record(z.string(), z.number()),
    /** Rows a run has, by shape and rows of a request, and the rates that decided it. */
    caps: z.array(
      z.object({
        key: z.string(),
        requestRows: z.number(),
        rows: z.number(),
        rowsPerSecond: z.record(z.string(), z.number()),
      }),
    ),
  }),
  engine: z.object({
    pid: z.number(),
    device: z.string(),
    provider: z.string(),
    rssBytes: z.number(),
    restarts: z.number(),
    loraCache: z.object({ entries: z.number(), bytes: z.number() }),
    overlays: z.object({ entries: z.number(), bytes: z.number() }),
  }),
  tensorStore: z.object({ entries: z.number(), bytes: z.number(), bytesMax: z.number() }),
});
export type DaemonStatus = z.infer<typeof statusSchema>;

export const listSchema = z.object({
  models: z.array(z.object({ id: z.string(), bytes: z.number(), isLoaded: z.boolean() })),
  loras: z.array(z.string()),
  embeddings: z.array(z.string()),
});
export type ModelList = z.infer<typeof listSchema>;
