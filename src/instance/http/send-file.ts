/** Files as replies: type, caching by ETag, ranges (RFC 9110, sections 13 and 14). */
import { stat } from "node:fs/promises";
import { extname } from "node:path";
import type { Reply, Request } from "./router.ts";

const TYPES: Readonly<Record<string, string>> = {
  ".css": "text/css; charset=utf-8",
  ".gif": "image/gif",
  ".html": "text/html; charset=utf-8",
  ".ico": "image/x-icon",
  ".jpeg": "image/jpeg",
  ".jpg": "image/jpeg",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".ttf": "font/ttf",
  ".txt": "text/plain; charset=utf-8",
  ".wasm": "application/wasm",
  ".webp": "image/webp",
  ".woff": "font/woff",
  ".woff2": "font/woff2",
};

export function typeOf(path: string): string {
  return TYPES[extname(path).toLowerCase()] ?? "application/octet-stream";
}

/** Undefined where there is no such file. */
export async function sendFile(
  path: string,
  { headers: asked }: Pick<Request, "headers">,
  headers: Readonly<Record<string, string>> = {},
): Promise<Reply | undefined> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() !== true) return undefined;
  const { size, mtimeMs, mtime } = found;
  const etag = `"${Math.trunc(mtimeMs).toString(16)}-${size.toString(16)}"`;
  const known = {
    "content-type": typeOf(path),
    "accept-ranges": "bytes",
    "last-modified": mtime.toUTCString(),
    etag,
    ...headers,
  };
  if (asked["if-none-match"] === etag) return { status: 304, headers: known };
  const range = /^bytes=(\d*)-(\d*)$/.exec(asked.range ?? "");
  if (range === null) return { headers: known, file: { path, start: 0, end: size - 1 } };
  const [, from = "", to = ""] = range;
  const start = from === "" ? Math.max(0, size - Number(to)) : Number(from);
  const end = from === "" || to === "" ? size - 1 : Math.min(Number(to), size - 1);
  if (start > end) return { status: 416, headers: { "content-range": `bytes */${size}` } };
  const part = { "content-range": `bytes ${start}-${end}/${size}` };
  return { status: 206, headers: { ...known, ...part }, file: { path, start, end } };
}
