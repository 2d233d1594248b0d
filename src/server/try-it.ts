/** POST /v1/try: one picture, as a stream of lines of JSON, so that a page can show it form. */
import { Readable } from "node:stream";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { z } from "zod";
import { LunaError, type TokenGrant } from "../kernel/index.ts";
import { toErrorMessage } from "../protocol/index.ts";
import { TRY_LIMITS } from "./limits.ts";

const { steps, side, cfg, prompt, name, loras, strength, seed } = TRY_LIMITS;
const shortText = z.string().max(name);
const pixels = z.int().min(side.min).max(side.max).multipleOf(8);

export const tryRequestSchema = z.strictObject({
  /** Shown in the list of sessions. */
  name: shortText.min(1),
  /** Name of a file in the folder "checkpoints". */
  model: shortText.min(1),
  prompt: z.string().max(prompt),
  negative: z.string().max(prompt),
  loras: z
    .array(
      z.strictObject({ name: shortText.min(1), strength: z.number().min(-strength).max(strength) }),
    )
    .max(loras),
  seed: z.int().min(0).max(seed),
  steps: z.int().min(1).max(steps),
  cfg: z.number().min(0).max(cfg),
  width: pixels,
  height: pixels,
});
export type TryRequest = z.infer<typeof tryRequestSchema>;

export type TryEvent =
  /** `png` in base64: the picture so far. */
  | Readonly<{ type: "progress"; step: number; steps: number; png?: string }>
  | Readonly<{ type: "picture"; png: string }>
  | Readonly<{ type: "log"; line: string }>;

/** Makes a picture as a client among others; the composition root knows how. */
export type TryIt = (
  request: TryRequest,
  options: {
    /** Whose picture it is: its session counts as one of this token's. */
    grant: TokenGrant;
    signal: AbortSignal;
    onEvent: (event: TryEvent) => void;
  },
) => Promise<void>;

export function addTryRoute(
  app: FastifyInstance,
  tryIt: TryIt,
  grantOf: (request: FastifyRequest) => TokenGrant,
): void {
  let running = 0;
  app.post("/v1/try", { bodyLimit: TRY_LIMITS.bodyBytes }, async (request, reply) => {
    const parsed = tryRequestSchema.safeParse(request.body);
    if (!parsed.success) throw invalid(parsed.error);
    if (running >= TRY_LIMITS.running) {
      throw new LunaError("QUEUE_FULL", `${running} pictures are being made, that is the limit.`);
    }
    running++;
    const abort = new AbortController();
    const lines = new Readable({ read: () => undefined });
    const say = (event: object) => void lines.push(`${JSON.stringify(event)}\n`);
    request.raw.socket.once("close", () => abort.abort());
    lines.once("close", () => abort.abort());
    const grant = grantOf(request);
    void tryIt(parsed.data, { grant, signal: abort.signal, onEvent: say })
      .catch((cause) => say({ type: "error", error: toErrorMessage(LunaError.from(cause)).error }))
      .finally(() => {
        running--;
        lines.push(null);
      });
    return reply.type("application/x-ndjson").header("cache-control", "no-store").send(lines);
  });
}

function invalid(error: z.ZodError): LunaError {
  const issue = error.issues[0];
  const place = issue?.path.join(".") ?? "";
  return new LunaError("REQUEST_INVALID", `"${place}": ${issue?.message ?? "unknown problem"}.`);
}
