/**
 * The messages of a connection and how untrusted JSON becomes one. The first frame of a client is
 * `hello`; whatever version it speaks, the daemon can read `type` and `protocol` and answer.
 */

import { z } from "zod";
import { LunaError } from "../kernel/index.ts";
import { watchEventSchema } from "./events.ts";
import { NAME_LENGTH_MAX, PID_MAX, TOKEN_LENGTH_MAX } from "./limits.ts";
import { isOp, OPS, type Op, type RequestBody } from "./ops.ts";
import { requestIdSchema } from "./schemas.ts";

export const PROTOCOL_VERSION = 1;

const text = z.string().max(NAME_LENGTH_MAX);

export const helloSchema = z.strictObject({
  type: z.literal("hello"),
  protocol: z.literal(PROTOCOL_VERSION),
  client: z.strictObject({
    name: text.min(1),
    version: text,
    /** Process of the client, so that tools on this machine can show its memory. */
    pid: z.int().positive().max(PID_MAX).exactOptional(),
  }),
  token: z.string().max(TOKEN_LENGTH_MAX).exactOptional(),
});
export type Hello = z.infer<typeof helloSchema>;

export const cancelSchema = z.strictObject({ type: z.literal("cancel"), id: requestIdSchema });
export type Cancel = z.infer<typeof cancelSchema>;

export type Request<Name extends Op = Op> = { type: "request"; id: number } & RequestBody<Name>;
export type ClientMessage = Hello | Cancel | Request;

export const welcomeSchema = z.object({
  type: z.literal("welcome"),
  protocol: z.number(),
  daemon: z.object({ version: z.string(), pid: z.number() }),
  session: z.string(),
});
export type Welcome = z.infer<typeof welcomeSchema>;

export const timingsSchema = z.object({
  /** Time between arrival and the start of the batch, loading included. */
  queueMs: z.number(),
  /** Time the engine spent inside its session, for the whole batch. */
  engineMs: z.number(),
  batch: z.object({ rows: z.number(), clients: z.number() }),
});
export type Timings = z.infer<typeof timingsSchema>;

export const resultSchema = z.object({
  type: z.literal("result"),
  id: requestIdSchema,
  data: z.unknown(),
  timings: timingsSchema.exactOptional(),
  warnings: z.array(z.string()).exactOptional(),
});
export type Result = z.infer<typeof resultSchema>;

export const errorSchema = z.object({
  type: z.literal("error"),
  id: requestIdSchema.exactOptional(),
  error: z.object({
    code: z.string(),
    message: z.string(),
    retryable: z.boolean(),
    details: z.record(z.string(), z.unknown()).exactOptional(),
  }),
});
export type ErrorMessage = z.infer<typeof errorSchema>;

/** What happened since the last one, to a session that watches. */
export const eventSchema = z.object({
  type: z.literal("event"),
  /** Of the `watch` request. */
  id: requestIdSchema,
  /** Events left out before these, because the watcher read too slowly. */
  dropped: z.number(),
  events: z.array(watchEventSchema),
});
export type EventMessage = z.infer<typeof eventSchema>;

export const daemonMessageSchema = z.discriminatedUnion("type", [
  welcomeSchema,
  resultSchema,
  errorSchema,
  eventSchema,
]);
export type DaemonMessage = z.infer<typeof daemonMessageSchema>;
export type Message = ClientMessage | DaemonMessage;

const envelope = { type: z.literal("request"), id: requestIdSchema };
const requestSchemas: ReadonlyMap<string, z.ZodType> = new Map(
  Object.entries(OPS).map(([op, { request }]) => [
    op,
    z.strictObject({ ...envelope, op: z.literal(op), ...request }),
  ]),
);

function invalid(problem: string): LunaError {
  return new LunaError("REQUEST_INVALID", `The message is not valid: ${problem}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function check<T>(schema: z.ZodType<T>, message: unknown): T {
  const parsed = schema.safeParse(message);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const at = issue && issue.path.length > 0 ? `"${issue.path.join(".")}": ` : "";
  throw invalid(`${at}${issue?.message ?? "unknown problem"}`);
}

/** A short, printable form of a value from outside, for messages. */
function show(value: unknown): string {
  return String(JSON.stringify(value)).slice(0, 80);
}

function checkVersion(protocol: unknown): void {
  if (protocol === PROTOCOL_VERSION) return;
  throw new LunaError(
    "PROTOCOL_VERSION",
    `The client speaks protocol ${show(protocol)}, this daemon ${PROTOCOL_VERSION}: ` +
      "install the same version of luna-daemon on both sides.",
    { details: { client: protocol ?? null, daemon: PROTOCOL_VERSION } },
  );
}

/** Parses a message a client sent. Throws REQUEST_INVALID or PROTOCOL_VERSION. */
export function parseClientMessage(message: unknown): ClientMessage {
  if (!isRecord(message)) throw invalid("it is not a JSON object.");
  switch (message["type"]) {
    case "hello":
      checkVersion(message["protocol"]);
      return check(helloSchema, message);
    case "cancel":
      return check(cancelSchema, message);
    case "request": {
      const op = message["op"];
      const schema = isOp(op) ? requestSchemas.get(op) : undefined;
      if (schema === undefined) throw invalid(`unknown operation ${show(op)}.`);
      // The schema was built from OPS[op]; its type is lost in the map.
      return check(schema, message) as Request;
    }
    default:
      throw invalid(`unknown type ${show(message["type"])}: hello, request or cancel.`);
  }
}

/** Parses a message the daemon sent. Throws FRAME_MALFORMED: a daemon that errs is no daemon. */
export function parseDaemonMessage(message: unknown): DaemonMessage {
  const parsed = daemonMessageSchema.safeParse(message);
  if (parsed.success) return parsed.data;
  throw new LunaError("FRAME_MALFORMED", "The daemon sent a message this client cannot read.", {
    cause: parsed.error,
  });
}

/** The id of a request that may otherwise be wrong, so that its error can name it. */
export function requestIdOf(message: unknown): number | undefined {
  if (!isRecord(message)) return undefined;
  const parsed = requestIdSchema.safeParse(message["id"]);
  return parsed.success ? parsed.data : undefined;
}
