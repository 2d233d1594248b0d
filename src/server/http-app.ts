import Fastify, { type FastifyInstance, type FastifyRequest } from "fastify";
import { ERRORS, LunaError, type TokenGrant } from "../kernel/index.ts";
import { toErrorMessage } from "../protocol/index.ts";
import { checkOrigin, checkToken, type Knock } from "./access.ts";
import { OPEN_GRANT } from "./allowances.ts";
import type { DaemonCore } from "./daemon-core.ts";
import { addPages, isPage } from "./http-pages.ts";
import { Metrics } from "./metrics.ts";
import { openApiDocument } from "./open-api.ts";
import { readReadiness } from "./readiness.ts";
import { addTryRoute, type TryIt } from "./try-it.ts";

export type HttpOptions = Readonly<{
  allowedHosts?: readonly string[] | undefined;
  /** Makes the pictures of the dashboard's "try it"; without it there is no such route. */
  tryIt?: TryIt | undefined;
}>;

/** Probes come from programs that hold no secrets, and learn nothing worth one. */
const PROBES: readonly string[] = ["/health", "/ready"];

/** The HTTP face: probes, figures, status, the dashboard. open-api.ts describes it. */
export function createHttpApp(
  core: DaemonCore,
  { allowedHosts = [], tryIt }: HttpOptions = {},
): FastifyInstance {
  const app = Fastify({ logger: false, forceCloseConnections: true });
  const grants = new WeakMap<FastifyRequest, TokenGrant>();
  app.addHook("onRequest", async (request) => {
    const knock = knockOf(request);
    checkOrigin(knock, allowedHosts);
    const path = request.url.split("?")[0] ?? "";
    const isOpen = PROBES.includes(path) || (request.method === "GET" && isPage(path));
    const grant = checkToken(knock, core.options.tokens ?? []);
    if (grant !== undefined) grants.set(request, grant);
    if (grant !== undefined || isOpen) return;
    throw new LunaError("UNAUTHORIZED", "Show the token: Authorization: Bearer <token>.");
  });
  app.setErrorHandler((cause: Error & { statusCode?: number }, _request, reply) => {
    const error = LunaError.from(cause);
    const status = cause instanceof LunaError ? ERRORS[cause.code].status : cause.statusCode;
    const retryAfterMs = error.details?.["retryAfterMs"];
    if (typeof retryAfterMs === "number") {
      void reply.header("retry-after", Math.ceil(retryAfterMs / 1000));
    }
    return reply.code(status ?? 500).send({ error: toErrorMessage(error).error });
  });
  app.setNotFoundHandler((request, reply) => {
    const message = `There is no ${request.method} ${request.url.slice(0, 80)} here.`;
    const error = new LunaError("REQUEST_INVALID", message);
    return reply.code(404).send({ error: toErrorMessage(error).error });
  });
  const { version } = core.options;
  const metrics = new Metrics(core.events, core.status);
  app.get("/health", async () => ({ status: "ok", version, pid: process.pid }));
  app.get("/ready", async (_request, reply) => {
    const readiness = await readReadiness(core);
    return reply.code(readiness.status === "ready" ? 200 : 503).send(readiness);
  });
  app.get("/metrics", async (_request, reply) => {
    const text = await metrics.text();
    return reply.type(metrics.contentType).send(text);
  });
  app.get("/v1/status", () => core.status());
  app.get("/v1/models", async () => ({ models: (await core.status()).models }));
  app.get("/v1/openapi.json", async () => openApiDocument(version));
  if (tryIt) addTryRoute(app, tryIt, (request) => grants.get(request) ?? OPEN_GRANT);
  addPages(app);
  return app;
}

export function knockOf({ headers, socket }: Pick<FastifyRequest, "headers" | "socket">): Knock {
  const { host, origin, authorization } = headers;
  return { host, origin, authorization, localAddress: socket.localAddress };
}
