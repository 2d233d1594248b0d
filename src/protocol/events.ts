/** What a watcher is told, as it happens. docs/protocol.md has the same tables. */
import { z } from "zod";
import { componentSchema, statusSchema } from "./schemas.ts";

/** Milliseconds since 1970, of the daemon's clock. */
const atMs = z.number();
const lora = z.object({ name: z.string(), strength: z.number() });

/** One run of the engine, after it: who shared it, and with which LoRAs. */
export const batchEventSchema = z.object({
  type: z.literal("batch"),
  atMs,
  model: z.string(),
  component: componentSchema,
  rows: z.number(),
  engineMs: z.number(),
  requests: z.array(z.object({ session: z.string(), rows: z.number(), loras: z.array(lora) })),
  /** Code, where the run failed. */
  error: z.string().exactOptional(),
});
export type BatchEvent = z.infer<typeof batchEventSchema>;

export const sessionEventSchema = z.object({
  type: z.literal("session"),
  atMs,
  change: z.enum(["opened", "closed"]),
  session: z.string(),
  name: z.string(),
  version: z.string(),
});

export const modelEventSchema = z.object({
  type: z.literal("model"),
  atMs,
  change: z.enum(["loaded", "unloaded"]),
  model: z.string(),
  bytes: z.number(),
});

export const errorEventSchema = z.object({
  type: z.literal("error"),
  atMs,
  code: z.string(),
  message: z.string(),
  session: z.string(),
  name: z.string(),
  op: z.string(),
});

/** All figures; the first event of a watch, then one a second. */
export const statusEventSchema = z.object({
  type: z.literal("status"),
  atMs,
  status: statusSchema,
});

export const watchEventSchema = z.discriminatedUnion("type", [
  batchEventSchema,
  sessionEventSchema,
  modelEventSchema,
  errorEventSchema,
  statusEventSchema,
]);
export type WatchEvent = z.infer<typeof watchEventSchema>;
