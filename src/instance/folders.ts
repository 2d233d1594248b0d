/** The folders of an instance and paths below them. */
import { readdir } from "node:fs/promises";
import { resolve, sep } from "node:path";
import { LunaError } from "../kernel/index.ts";

export type InstanceFolders = Readonly<{ input: string; output: string; temp: string }>;

/** A path below `root`, or PATH_REFUSED. */
export function pathBelow(root: string, ...parts: readonly string[]): string {
  const base = resolve(root);
  const path = resolve(base, ...parts.map((part) => part.replaceAll("\\", "/")));
  const isInside = path === base || path.startsWith(base + sep);
  if (isInside && !parts.some((part) => part.includes("\0"))) return path;
  throw new LunaError("PATH_REFUSED", `"${parts.join("/")}" leads out of the folder ${base}.`);
}

/** Sorted names of the files in a folder; none where there is no folder. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder, { withFileTypes: true }))
      .filter((entry) => entry.isFile() || entry.isSymbolicLink())
      .map((entry) => entry.name)
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
