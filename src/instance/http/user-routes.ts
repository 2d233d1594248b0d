/** /users, /settings and /userdata: what the web front end keeps for its one user. */
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";
import { LunaError } from "../../kernel/index.ts";
import { type Json, type JsonObject, parseJson, toPythonJson } from "../../workflow/index.ts";
import { pathBelow } from "../folders.ts";
import { USER_FILES_MAX } from "../limits.ts";
import { readJson, readObject } from "./parse-body.ts";
import { decodePart, jsonReply, type Reply, type Request, type Routes } from "./router.ts";
import { sendFile } from "./send-file.ts";

const SETTINGS_FILE = "comfy.settings.json";
/** Without it the front end opens its gallery of templates at every first start. */
const FIRST_SETTINGS: JsonObject = new Map([["Comfy.TutorialCompleted", true]]);

/** What the front end asks for at every start; missing files would be errors in its console. */
const FIRST_FOLDERS = ["workflows", "subgraphs"];
const FIRST_FILES: Readonly<Record<string, string>> = {
  "comfy.templates.json": "[]",
  "user.css": "",
};

/** Makes the folder of a user; what is there stays. */
export async function prepareUserFolder(folder: string): Promise<void> {
  for (const name of FIRST_FOLDERS) await mkdir(join(folder, name), { recursive: true });
  for (const [name, text] of Object.entries(FIRST_FILES)) {
    const path = join(folder, name);
    if (!(await isFile(path))) await writeFile(path, text);
  }
}

/** `folder` holds the user's files. */
export function userRoutes(folder: string): Routes {
  const settings = new Settings(join(folder, SETTINGS_FILE));
  return {
    "GET /users": () => jsonReply({ storage: "server", migrated: true }),
    "GET /settings": async () => jsonReply(await settings.read()),
    "GET /settings/:id": async ({ params }) =>
      jsonReply((await settings.read()).get(params["id"] ?? "") ?? null),
    "POST /settings": async (request) => {
      await settings.merge(await readObject(request));
      return {};
    },
    "POST /settings/:id": async (request) => {
      await settings.merge(new Map([[request.params["id"] ?? "", await readJson(request)]]));
      return {};
    },
    "GET /user.css": async (request) =>
      (await sendFile(join(folder, "user.css"), request)) ?? { status: 404 },
    "GET /userdata": (request) => listUserData(folder, request.query),
    "GET /v2/userdata": ({ query }) => listFolder(folder, query.get("path") ?? ""),
    "GET /userdata/:file": async (request) =>
      (await sendFile(pathBelow(folder, request.params["file"] ?? ""), request)) ?? { status: 404 },
    "POST /userdata/:file": (request) => writeUserData(folder, request),
    "DELETE /userdata/:file": async ({ params }) => {
      const path = pathBelow(folder, params["file"] ?? "");
      if (!(await isFile(path))) return { status: 404 };
      await rm(path);
      return { status: 204 };
    },
    "POST /userdata/:file/move/:target": (request) => moveUserData(folder, request),
  };
}

/** Changes wait for one another, so that none is lost. */
class Settings {
  readonly #path: string;
  #latest: Promise<unknown> = Promise.resolve();

  constructor(path: string) {
    this.#path = path;
  }

  async read(): Promise<JsonObject> {
    const text = await readFile(this.#path, "utf8").catch(() => undefined);
    const value = text === undefined ? FIRST_SETTINGS : parseJson(text);
    return value instanceof Map ? (value as JsonObject) : FIRST_SETTINGS;
  }

  merge(changes: JsonObject): Promise<void> {
    const done = this.#latest.then(async () => {
      const merged: ReadonlyMap<string, Json> = new Map([...(await this.read()), ...changes]);
      await mkdir(dirname(this.#path), { recursive: true });
      await writeFile(this.#path, toPythonJson(merged));
    });
    this.#latest = done.catch(() => undefined);
    return done;
  }
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() === true;
}

async function listUserData(folder: string, query: URLSearchParams): Promise<Reply> {
  const asked = query.get("dir");
  if (asked === null || asked === "") return { status: 400 };
  const root = pathBelow(folder, asked);
  const isDeep = query.get("recurse")?.toLowerCase() === "true";
  const entries = await readdir(root, { recursive: isDeep, withFileTypes: true }).catch(
    () => undefined,
  );
  if (entries === undefined) return { status: 404 };
  const files = entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll(sep, "/"))
    .sort();
  if (files.length > USER_FILES_MAX) {
    throw new LunaError("LIMIT_EXCEEDED", `${asked} holds over ${USER_FILES_MAX} files.`);
  }
  if (query.get("full_info")?.toLowerCase() === "true") {
    return jsonReply(await Promise.all(files.map((name) => fileFacts(root, name))));
  }
  const isSplit = query.get("split")?.toLowerCase() === "true";
  return jsonReply(isSplit ? files.map((name) => [name, ...name.split("/")]) : files);
}

/** `path` is relative to the listed folder, times are seconds since 1970. */
async function fileFacts(root: string, name: string) {
  const { size, mtimeMs, birthtimeMs } = await stat(join(root, name));
  return { path: name, size, modified: mtimeMs / 1000, created: birthtimeMs / 1000 };
}

/** Clients may encode the path once more than the address needs. Throws REQUEST_INVALID. */
function folderBelow(folder: string, asked: string): string {
  try {
    return pathBelow(folder, /%[0-9a-f]{2}/i.test(asked) ? decodePart(asked) : asked);
  } catch (cause) {
    throw new LunaError("REQUEST_INVALID", LunaError.from(cause).message, { cause });
  }
}

type Listed = Readonly<{ name: string; path: string; type: "directory" | "file" }> &
  Readonly<{ size?: number; modified?: number }>;

/** Everything below a folder, folders first, then by name; `path` is relative to the user's own folder. */
async function listFolder(folder: string, asked: string): Promise<Reply> {
  const root = folderBelow(folder, asked);
  const found = await stat(root).catch(() => undefined);
  if (found === undefined) return { status: 404 };
  if (!found.isDirectory()) {
    throw new LunaError("REQUEST_INVALID", `"${asked}" is a file: name a folder.`);
  }
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  if (entries.length > USER_FILES_MAX) {
    throw new LunaError("LIMIT_EXCEEDED", `"${asked}" holds over ${USER_FILES_MAX} files.`);
  }
  const listed = await Promise.all(
    entries.map(async ({ name, parentPath }): Promise<Listed> => {
      const full = join(parentPath, name);
      const path = relative(folder, full).replaceAll(sep, "/");
      // A link to nowhere is listed by its name alone.
      const facts = await stat(full).catch(() => undefined);
      if (facts?.isDirectory()) return { name, path, type: "directory" };
      const known = facts && { size: facts.size, modified: facts.mtimeMs / 1000 };
      return { name, path, type: "file", ...known };
    }),
  );
  const key = ({ type, name, path }: Listed) => [type, name.toLowerCase(), path].join("\0");
  return jsonReply(listed.sort((a, b) => (key(a) < key(b) ? -1 : 1)));
}

async function written(folder: string, path: string, query: URLSearchParams): Promise<Reply> {
  const name = relative(folder, path).replaceAll(sep, "/");
  const isFull = query.get("full_info")?.toLowerCase() === "true";
  return jsonReply(isFull ? await fileFacts(folder, name) : name);
}

async function writeUserData(folder: string, request: Request): Promise<Reply> {
  const { params, query } = request;
  const path = pathBelow(folder, params["file"] ?? "");
  if (query.get("overwrite") === "false" && (await isFile(path))) return { status: 409 };
  const bytes = await request.body();
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, bytes);
  return written(folder, path, query);
}

async function moveUserData(folder: string, { params, query }: Request): Promise<Reply> {
  const source = pathBelow(folder, params["file"] ?? "");
  const target = pathBelow(folder, params["target"] ?? "");
  if (!(await isFile(source))) return { status: 404 };
  if (query.get("overwrite") === "false" && (await isFile(target))) return { status: 409 };
  await mkdir(dirname(target), { recursive: true });
  await rename(source, target);
  return written(folder, target, query);
}
