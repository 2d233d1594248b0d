/**
 * Where ONNX Runtime finds a graph and its weights. It takes external data only from a plain file
 * in the model's own folder: symbolic links, absolute paths and "../" are refused. So the graph
 * and a hard link to the checkpoint are put into one private folder: in the system's temporary
 * folder when that is on the same file system, else in a hidden folder beside the checkpoint.
 * Where neither works (read-only disk, no hard links) the weights are read into memory.
 *
 * All that depends on the operating system is in this file. Linux and macOS: a mapped file stays
 * readable after its last name is gone, so the folder is removed as soon as the session exists
 * and nothing is left behind even by kill -9. Windows (untested there): a mapped file cannot be
 * removed, so the folder stays until the session is released, or is cleaned at a later start.
 */
import { existsSync, rmSync } from "node:fs";
import { link, mkdtemp, open, readdir, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { LunaError } from "../kernel/index.ts";

/** Not ".safetensors": ComfyUI lists such files wherever they lie below its model folders. */
export const WEIGHTS_NAME = "weights";
const FOLDER_PREFIX = "luna-engine-";
/** One read call takes at most 2^31 - 1 bytes. */
const READ_BYTES_MAX = 1 << 30;
const CAN_UNLINK_MAPPED = process.platform !== "win32";

export type WeightsPlace =
  | Readonly<{ type: "linked"; folder: string; where: "temporary" | "beside" }>
  | Readonly<{ type: "memory" }>;

/** Folders of this process that still exist. */
const folders = new Set<string>();
process.once("exit", () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM"; // It lives, but is not ours.
  }
}

/** Removes what engines that no longer live have left in `parent`. */
export async function cleanStaleFolders(parent: string): Promise<void> {
  const names = await readdir(parent).catch(() => []);
  for (const name of names) {
    const match = /^\.?luna-engine-(\d+)-/.exec(name);
    if (match === null || isAlive(Number(match[1]))) continue;
    // Best effort: it may belong to another user.
    await rm(join(parent, name), { recursive: true, force: true }).catch(() => undefined);
  }
}

async function linkInto(parent: string, prefix: string, file: string): Promise<string | undefined> {
  let folder: string | undefined;
  try {
    folder = await mkdtemp(join(parent, `${prefix}${FOLDER_PREFIX}${process.pid}-`));
    folders.add(folder);
    await link(file, join(folder, WEIGHTS_NAME));
    return folder;
  } catch {
    if (folder !== undefined) await removeFolder(folder);
    return undefined;
  }
}

async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true }).catch(() => undefined);
  if (!existsSync(folder)) folders.delete(folder);
}

/** Puts the weights where a graph can reach them. Throws FILE_UNREADABLE. */
export async function placeWeights(
  path: string,
  temporaryFolder: string = tmpdir(),
): Promise<WeightsPlace> {
  const file = await realpath(path).catch((cause: unknown) => {
    throw new LunaError("FILE_UNREADABLE", `${path} cannot be read: ${reasonOf(cause)}.`, {
      cause,
    });
  });
  await cleanStaleFolders(temporaryFolder);
  const temporary = await linkInto(temporaryFolder, "", file);
  if (temporary !== undefined) return { type: "linked", folder: temporary, where: "temporary" };
  await cleanStaleFolders(dirname(file));
  const beside = await linkInto(dirname(file), ".", file);
  if (beside !== undefined) return { type: "linked", folder: beside, where: "beside" };
  return { type: "memory" };
}

/** The session exists: the folder goes now where the system allows it. */
export async function afterCreate(place: WeightsPlace): Promise<void> {
  if (place.type === "linked" && CAN_UNLINK_MAPPED) await removeFolder(place.folder);
}

/** The session is gone, or never came to be. */
export async function afterRelease(place: WeightsPlace): Promise<void> {
  if (place.type === "linked") await removeFolder(place.folder);
}

/** Bytes [begin, end) of a file. Throws FILE_UNREADABLE when it is shorter. */
export async function readRange(path: string, begin: number, end: number): Promise<Uint8Array> {
  const file = await open(path, "r");
  try {
    const bytes = new Uint8Array(end - begin);
    let filled = 0;
    while (filled < bytes.byteLength) {
      const length = Math.min(bytes.byteLength - filled, READ_BYTES_MAX);
      const { bytesRead } = await file.read(bytes, filled, length, begin + filled);
      if (bytesRead === 0) {
        throw new LunaError("FILE_UNREADABLE", `${path} ends at ${begin + filled}, not ${end}.`);
      }
      filled += bytesRead;
    }
    return bytes;
  } finally {
    await file.close();
  }
}

function reasonOf(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "ENOENT") return "there is no such file";
  if (code === "EACCES" || code === "EPERM") return "permission denied";
  return code ?? String(error);
}
