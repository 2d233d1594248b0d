import { existsSync, lstatSync, readFileSync } from "node:fs";
import { cp, rm, symlink } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { LunaError } from "../kernel/index.ts";
import { VERSION } from "../version.ts";
import type { Command } from "./command.ts";

/** Folder of the node pack among ComfyUI's custom_nodes. */
const PACK_NAME = "luna-daemon";
/** The oldest ComfyUI the pack was run with; an older one may lack what it overrides. */
const COMFYUI_VERSION_TESTED = "0.18.1";
/** The node pack: beside dist/ in an installed package, beside src/ in a working copy. */
const PACK = fileURLToPath(new URL("../../comfyui", import.meta.url));

const USAGE = "install PATH_TO_COMFYUI [--copy]";

function problem(message: string): LunaError {
  return new LunaError("CONFIG_INVALID", message);
}

/** The folder as an absolute path. Throws CONFIG_INVALID where it is no ComfyUI. */
export function checkComfyUi(folder: string): string {
  const root = resolve(folder);
  for (const part of ["main.py", "comfy", "custom_nodes"]) {
    if (!existsSync(join(root, part))) {
      throw problem(
        `${root} is no ComfyUI: it has no ${part}. Name the folder that holds main.py.`,
      );
    }
  }
  return root;
}

function comfyUiVersion(root: string): string | undefined {
  const file = join(root, "comfyui_version.py");
  if (!existsSync(file)) return undefined;
  return /__version__\s*=\s*"([^"]+)"/.exec(readFileSync(file, "utf8"))?.[1];
}

/** The version a pack says it has, or undefined for a folder that is no pack of ours. */
export function packVersion(folder: string): string | undefined {
  const file = join(folder, "luna_daemon", "__init__.py");
  if (!existsSync(file)) return undefined;
  return /^VERSION = "([^"]+)"/m.exec(readFileSync(file, "utf8"))?.[1];
}

/** True where something, be it a dangling link, has the name. */
function isTaken(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

async function place(target: string, isCopy: boolean): Promise<"linked" | "copied"> {
  if (!isCopy) {
    try {
      // A junction needs no rights on Windows. Untested on Windows.
      await symlink(PACK, target, process.platform === "win32" ? "junction" : "dir");
      return "linked";
    } catch {
      // A file system without links.
    }
  }
  const filter = (source: string) => !source.endsWith("__pycache__");
  await cp(PACK, target, { recursive: true, filter });
  return "copied";
}

/** Puts the pack into a ComfyUI, in the place of an older one of ours, and checks it. */
export async function installPack(
  folder: string,
  isCopy: boolean,
): Promise<{ target: string; how: "linked" | "copied"; comfyUi: string | undefined }> {
  const root = checkComfyUi(folder);
  const target = join(root, "custom_nodes", PACK_NAME);
  if (isTaken(target)) {
    if (existsSync(target) && packVersion(target) === undefined) {
      throw problem(`${target} exists and is not Luna's node pack. Move it away first.`);
    }
    await rm(target, { recursive: true });
  }
  const how = await place(target, isCopy);
  const version = packVersion(target);
  if (version !== VERSION) {
    throw problem(`The pack at ${target} has version ${version}, this program has ${VERSION}.`);
  }
  return { target, how, comfyUi: comfyUiVersion(root) };
}

/** True where version `one` is older than `other`: numbers, compared part by part. */
export function isOlder(one: string, other: string): boolean {
  return one.localeCompare(other, "en", { numeric: true }) < 0;
}

export const comfyui: Command = {
  summary: "Puts Luna's nodes into a ComfyUI.",
  usage: USAGE,
  hasOperands: true,
  settings: [],
  options: { copy: { type: "boolean", doc: "Copy the pack instead of linking to it." } },
  async run({ values, positionals, print, note }) {
    const [action, folder, ...rest] = positionals;
    if (action !== "install" || folder === undefined || rest.length > 0) {
      throw problem(`Usage: luna comfyui ${USAGE}`);
    }
    const { target, how, comfyUi } = await installPack(folder, values["copy"] === true);
    print(`Luna's nodes ${VERSION} ${how} to ${target}`);
    if (comfyUi !== undefined && isOlder(comfyUi, COMFYUI_VERSION_TESTED)) {
      note(`This is ComfyUI ${comfyUi}; the nodes were tested with ${COMFYUI_VERSION_TESTED}.`);
    }
    print("Restart ComfyUI, then start the daemon: npx luna serve");
    print("LUNA_TAKEOVER=1, or the setting of that name, puts existing workflows on the daemon.");
    return 0;
  },
};
