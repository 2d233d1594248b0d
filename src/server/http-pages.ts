/** The dashboard's files: small, read once, served with a policy that lets them load nothing else. */
import { readdirSync, readFileSync } from "node:fs";
import { extname } from "node:path";
import type { FastifyInstance, FastifyReply } from "fastify";

/** The same place seen from src/server and from dist/server. */
const FOLDER = new URL("../../assets/dashboard/", import.meta.url);

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".svg": "image/svg+xml",
};

const HEADERS = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; " +
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  // A newer daemon may serve other files under the same address.
  "cache-control": "no-cache",
} as const;

/** Paths that hold nothing secret: the page must load before it can ask for the token. */
export function isPage(path: string): boolean {
  return path === "/" || path.startsWith("/dashboard/");
}

export function addPages(app: FastifyInstance): void {
  for (const name of readdirSync(FOLDER)) {
    const type = TYPES[extname(name)];
    if (type === undefined) continue;
    const content = readFileSync(new URL(name, FOLDER));
    const send = (_request: unknown, reply: FastifyReply) =>
      reply.headers(HEADERS).type(type).send(content);
    app.get(name === "index.html" ? "/" : `/dashboard/${name}`, send);
  }
}
