/** A small router over node:http: an instance is to stay light, and ComfyUI's paths are few. */
import { createReadStream } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { pipeline } from "node:stream/promises";
import { ERRORS, type Logger, LunaError } from "../../kernel/index.ts";
import { BODY_BYTES_MAX } from "../limits.ts";
import { toWireJson } from "../wire-json.ts";

export type Headers = Readonly<Record<string, string | number>>;

export type Reply = Readonly<{
  status?: number;
  headers?: Headers;
  body?: string | Uint8Array;
  /** A file, or a part of it, in place of a body. */
  file?: Readonly<{ path: string; start: number; end: number }>;
  /** Runs when the answer has left: clients must not hear of a prompt before its answer. */
  after?: () => void;
}>;

export type Request = Readonly<{
  method: string;
  /** Decoded parts of the path that the route names. */
  params: Readonly<Record<string, string>>;
  query: URLSearchParams;
  headers: IncomingMessage["headers"];
  /** Whole body; read on demand. Throws LIMIT_EXCEEDED. */
  body: () => Promise<Buffer>;
}>;

export type Handler = (request: Request) => Reply | Promise<Reply>;

/** "GET /history/:id": each `:name` is one part of the path. Every route also answers below /api. */
export type Routes = Readonly<Record<string, Handler>>;

export type RouterOptions = Readonly<{
  /** Serves static files. */
  fallback: (path: string, request: Request) => Promise<Reply | undefined>;
  logger: Logger;
}>;

type Route = Readonly<{ method: string; parts: readonly string[]; handler: Handler }>;

export class Router {
  readonly #routes: readonly Route[];
  readonly #options: RouterOptions;

  constructor(routes: Routes, options: RouterOptions) {
    this.#routes = Object.entries(routes).map(([key, handler]) => {
      const [method = "", path = ""] = key.split(" ");
      return { method, parts: path.split("/"), handler };
    });
    this.#options = options;
  }

  async answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const reply = await this.#reply(incoming).catch((cause: unknown) => {
      const error = LunaError.from(cause);
      if (error.code === "INTERNAL") this.#logBug(incoming, cause);
      return errorReply(error);
    });
    const { status = 200, headers = {}, body = "", file, after } = reply;
    if (after) response.once("close", after);
    const isHead = incoming.method === "HEAD";
    if (file === undefined) {
      const bytes = Buffer.from(body);
      response.writeHead(status, { "content-length": bytes.byteLength, ...headers });
      response.end(isHead ? undefined : bytes);
      return;
    }
    response.writeHead(status, { "content-length": file.end - file.start + 1, ...headers });
    if (isHead || file.end < file.start) response.end();
    // A client that leaves early is no error.
    else await pipeline(createReadStream(file.path, file), response).catch(() => undefined);
  }

  /** The path alone: a query may name files. */
  #logBug({ method, url }: IncomingMessage, cause: unknown): void {
    const path = url?.split("?")[0];
    const stack = cause instanceof Error ? cause.stack : String(cause);
    this.#options.logger.error("request.bug", { method, path, stack });
  }

  async #reply(incoming: IncomingMessage): Promise<Reply> {
    const url = new URL(incoming.url ?? "/", "http://instance");
    const method = incoming.method === "HEAD" ? "GET" : (incoming.method ?? "GET");
    if (method === "OPTIONS") return {};
    const request = (params: Request["params"]): Request => ({
      method,
      params,
      query: url.searchParams,
      headers: incoming.headers,
      body: () => readBody(incoming),
    });
    const matching = this.#routes.flatMap((route) => {
      const params = match(route, url.pathname) ?? match(route, withoutApi(url.pathname));
      return params === undefined ? [] : [{ route, params }];
    });
    const found = matching.find(({ route }) => route.method === method);
    if (found !== undefined) return await found.route.handler(request(found.params));
    if (matching.length > 0) return textReply(405, `${method} is not allowed here.`);
    const file =
      method === "GET" ? await this.#options.fallback(url.pathname, request({})) : undefined;
    return file ?? { status: 404 };
  }
}

function withoutApi(path: string): string {
  return path.startsWith("/api/") ? path.slice("/api".length) : "";
}

/** Parts are compared before they are decoded: names of user files hold %2F. */
function match({ parts }: Route, path: string): Record<string, string> | undefined {
  const given = path.split("/");
  if (given.length !== parts.length) return undefined;
  const params: Record<string, string> = {};
  for (const [index, part] of parts.entries()) {
    const value = given[index] ?? "";
    if (!part.startsWith(":")) {
      if (part !== value) return undefined;
    } else if (value === "") return undefined;
    else params[part.slice(1)] = decodePart(value);
  }
  return params;
}

export function decodePart(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new LunaError("REQUEST_INVALID", `"${text.slice(0, 80)}" is not a valid address.`, {
      cause,
    });
  }
}

async function readBody(incoming: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    length += chunk.byteLength;
    if (length > BODY_BYTES_MAX) {
      throw new LunaError("LIMIT_EXCEEDED", `A request has over ${BODY_BYTES_MAX} bytes.`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

export function jsonReply(value: unknown, status = 200): Reply {
  const headers = { "content-type": "application/json; charset=utf-8" };
  return { status, headers, body: toWireJson(value) };
}

export function textReply(status: number, body: string): Reply {
  return { status, headers: { "content-type": "text/plain; charset=utf-8" }, body };
}

/** Errors in ComfyUI's shape, always as JSON: some clients parse every answer of 400 and above. */
function errorReply(error: LunaError): Reply {
  return jsonReply(
    {
      error: { type: error.code, message: error.message, details: "", extra_info: {} },
      node_errors: {},
    },
    ERRORS[error.code].status,
  );
}
