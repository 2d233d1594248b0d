import Fastify, { type FastifyInstance, type FastifyRequest } from "fastify";
import { ERRORS, LunaError } from "../kernel/index.ts";
import { toErrorMessage } from "../protocol/index.ts";
import { checkOrigin, checkToken, type Knock } from "./access.ts";
import type { DaemonCore } from "./daemon-core.ts";

/** The JSON face: /health for probes, /v1/models and /v1/status for people and programs. */
export function createHttpApp(
  core: DaemonCore,
  allowedHosts: readonly string[] = [],
): FastifyInstance {
  const app = Fastify({ logger: false, forceCloseConnections: true });
  app.addHook("onRequest", async (request) => {
    const knock = knockOf(request);
    checkOrigin(knock, allowedHosts);
    const isOpen = request.url === "/health";
    if (checkToken(knock, core.options.token) || isOpen) return;
    throw new LunaError("UNAUTHORIZED", "Show the token: Authorization: Bearer <token>.");
  });
  app.setErrorHandler((cause: Error & { statusCode?: number }, _request, reply) => {
    const error = LunaError.from(cause);
    const status = cause instanceof LunaError ? ERRORS[cause.code].status : cause.statusCode;
    return reply.code(status ?? 500).send({ error: toErrorMessage(error).error });
  });
  app.setNotFoundHandler((request, reply) => {
    const message = `There is no ${request.method} ${request.url.slice(0, 80)} here.`;
    const error = new LunaError("REQUEST_INVALID", message);
    return reply.code(404).send({ error: toErrorMessage(error).error });
  });
  const { version } = core.options;
  app.get("/health", async () => ({ status: "ok", version, pid: process.pid }));
  app.get("/v1/status", () => core.status());
  app.get("/v1/models", async () => ({ models: (await core.status()).models }));
  return app;
}

export function knockOf({ headers, socket }: Pick<FastifyRequest, "headers" | "socket">): Knock {
  const { host, origin, authorization } = headers;
  return { host, origin, authorization, localAddress: socket.localAddress };
}
