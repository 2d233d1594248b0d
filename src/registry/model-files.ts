/**
 * The .safetensors files below the model folders, and the file a client means by a name. Names are
 * relative and cannot leave the folders; a link inside a folder may lead elsewhere, as in ComfyUI:
 * whoever put it there may read the target.
 */
import { readdir, realpath, stat } from "node:fs/promises";
import { isAbsolute, join, normalize, relative, sep } from "node:path";
import { LunaError } from "../kernel/index.ts";
import { FILES_MAX, FOLDER_DEPTH_MAX, LISTING_AGE_MS_MAX, NAME_LENGTH_MAX } from "./limits.ts";
import type { ModelFolders, ModelKind } from "./model-folders.ts";

const EXTENSION = ".safetensors";

export type ModelFile = Readonly<{
  /** "<kind>/<name>" */
  id: string;
  kind: ModelKind;
  /** Path below the folder, with "/", as on disk. */
  name: string;
  /** Absolute; may be or pass through a link. */
  path: string;
}>;

/** A file behind its links, and its content as far as the disk tells: replaced, it has another key. */
export type Fingerprint = Readonly<{ path: string; bytes: number; key: string }>;

/** Undefined if there is no such file. */
export async function readFingerprint(path: string): Promise<Fingerprint | undefined> {
  try {
    const real = await realpath(path);
    const { size, mtimeMs } = await stat(real);
    return { path: real, bytes: size, key: `${size}-${mtimeMs}` };
  } catch {
    return undefined;
  }
}

/** All files below one folder, links followed, hidden folders left out, names sorted. */
async function listFolder(folder: string): Promise<string[]> {
  const names: string[] = [];
  const visited = new Set<string>();
  async function walk(path: string, prefix: string, depth: number): Promise<void> {
    const real = await realpath(path).catch(() => undefined);
    if (real === undefined || visited.has(real) || depth > FOLDER_DEPTH_MAX) return;
    visited.add(real);
    const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.name.startsWith(".")) continue;
      const inner = join(path, entry.name);
      const target = entry.isSymbolicLink() ? await stat(inner).catch(() => undefined) : entry;
      if (target?.isDirectory()) await walk(inner, `${prefix}${entry.name}/`, depth + 1);
      else if (target?.isFile() && entry.name.toLowerCase().endsWith(EXTENSION)) {
        names.push(`${prefix}${entry.name}`);
        if (names.length > FILES_MAX) throw tooMany(folder);
      }
    }
  }
  await walk(folder, "", 0);
  return names;
}

function tooMany(folder: string): LunaError {
  return new LunaError(
    "LIMIT_EXCEEDED",
    `${folder} holds more than ${FILES_MAX} models: name a smaller folder.`,
  );
}

/** Slashes as on Linux, no "./"; throws PATH_REFUSED for names that could leave their folder. */
export function parseModelName(name: string): string {
  const slashed = name.replaceAll("\\", "/");
  const parts = slashed.split("/").filter((part) => part !== "" && part !== ".");
  const isOutside = slashed.startsWith("/") || /^[a-z]:/i.test(slashed) || parts.includes("..");
  if (isOutside || slashed.includes("\0") || slashed.length > NAME_LENGTH_MAX || !parts.length) {
    throw new LunaError(
      "PATH_REFUSED",
      `"${name.slice(0, NAME_LENGTH_MAX)}" is not a model name: give a path relative to a model folder, without "..".`,
    );
  }
  return parts.join("/");
}

/**
 * Finds `name` among names on disk: as it is, with the extension added, then without regard to
 * case if that fits one file only (workflows made on Windows), then, for a name without folder, in
 * the subfolders if that fits one file only (prompts name LoRAs so).
 */
export function matchName(names: readonly string[], name: string): string | undefined {
  for (const candidate of [name, `${name}${EXTENSION}`]) {
    if (names.includes(candidate)) return candidate;
  }
  const lower = name.toLowerCase();
  const fits = (known: string): boolean => {
    const other = known.toLowerCase();
    return other === lower || other === `${lower}${EXTENSION}`;
  };
  const similar = names.filter(fits);
  if (similar.length > 0 || name.includes("/"))
    return similar.length === 1 ? similar[0] : undefined;
  const below = names.filter((known) => fits(known.slice(known.lastIndexOf("/") + 1)));
  return below.length === 1 ? below[0] : undefined;
}

type Listing = Readonly<{
  byName: ReadonlyMap<string, ModelFile>;
  names: readonly string[];
  readAtMs: number;
}>;

/** Lists and finds model files; a listing is kept until a name is not found in it. */
export class ModelFiles {
  readonly #folders: ModelFolders;
  readonly #nowMs: () => number;
  readonly #read: (path: string) => Promise<Fingerprint | undefined>;
  readonly #listings = new Map<ModelKind, Listing>();

  /** `read` may remember what it has read, for a moment. */
  constructor(folders: ModelFolders, nowMs: () => number, read = readFingerprint) {
    this.#folders = folders;
    this.#nowMs = nowMs;
    this.#read = read;
  }

  /** All files of a kind, read from disk; where two folders have a name, the first one's. */
  async list(kind: ModelKind): Promise<readonly ModelFile[]> {
    const readAtMs = this.#nowMs();
    const files = new Map<string, ModelFile>();
    for (const folder of this.#folders[kind]) {
      for (const name of await listFolder(folder)) {
        if (files.has(name)) continue;
        files.set(name, { id: `${kind}/${name}`, kind, name, path: join(folder, name) });
      }
    }
    this.#listings.set(kind, { byName: files, names: [...files.keys()], readAtMs });
    return [...files.values()];
  }

  /** The file a client means by `name`; undefined if there is none. Throws PATH_REFUSED. */
  async find(kind: ModelKind, name: string): Promise<ModelFile | undefined> {
    const wanted = parseModelName(name);
    const listing = this.#listings.get(kind);
    const known = listing && pick(listing, wanted);
    if (known !== undefined && (await this.#read(known.path)) !== undefined) return known;
    const age = listing === undefined ? Number.POSITIVE_INFINITY : this.#nowMs() - listing.readAtMs;
    if (known === undefined && age < LISTING_AGE_MS_MAX) return undefined;
    await this.list(kind);
    const fresh = this.#listings.get(kind);
    return fresh && pick(fresh, wanted);
  }

  /** The file at an absolute path, which must lie below a folder. Throws PATH_REFUSED. */
  async findPath(path: string): Promise<ModelFile> {
    const wanted = normalize(path);
    for (const [kind, folders] of Object.entries(this.#folders) as [ModelKind, string[]][]) {
      for (const folder of folders) {
        const real = await realpath(folder).catch(() => folder);
        const name = nameBelow(folder, wanted) ?? nameBelow(real, wanted);
        if (name?.toLowerCase().endsWith(EXTENSION)) {
          // Uploaded since the listing: the name must be found at once.
          if (this.#listings.get(kind)?.byName.has(name) === false) this.#listings.delete(kind);
          return { id: `${kind}/${name}`, kind, name, path: wanted };
        }
      }
    }
    throw new LunaError(
      "PATH_REFUSED",
      `"${path}" is not a .safetensors file below a configured model folder: move it there, or add its folder with --models.`,
    );
  }
}

/** `path` relative to `folder`, with "/"; undefined if it lies elsewhere. */
function nameBelow(folder: string, path: string): string | undefined {
  const inner = relative(folder, path);
  const parts = inner.split(sep);
  return inner === "" || isAbsolute(inner) || parts.includes("..") ? undefined : parts.join("/");
}

function pick({ byName, names }: Listing, wanted: string): ModelFile | undefined {
  const exact = byName.get(wanted);
  if (exact !== undefined) return exact;
  const match = matchName(names, wanted);
  return match === undefined ? undefined : byName.get(match);
}
