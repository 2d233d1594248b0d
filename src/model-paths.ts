/** Where models lie: the user's folders, the embedded model's, and what clients have sent. */
import { readFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type Config, LunaError } from "./kernel/index.ts";
import {
  type ExtraFolder,
  type ModelFolders,
  modelFolders,
  parseExtraModelPaths,
} from "./registry/index.ts";

/** The embedded model and its LoRAs, laid out as a models folder. */
export const ASSETS = fileURLToPath(new URL("../assets/", import.meta.url));

/**
 * Models sent as tensors are kept here; a folder of its own keeps them out of ComfyUI's lists. One
 * for each user of the machine (Windows' temporary folder is a user's own).
 */
export const uploadRoot = (): string => join(tmpdir(), `luna-uploads-${process.getuid?.() ?? 0}`);

function extraFolders(config: Config): ExtraFolder[] {
  if (config.extraModelPaths === "") return [];
  const path = resolve(config.extraModelPaths);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw new LunaError("CONFIG_INVALID", `extra_model_paths ${path} cannot be read.`, { cause });
  }
  return parseExtraModelPaths(text, {
    directory: dirname(path),
    home: homedir(),
    environment: config.environment,
  });
}

/** The user's model folders first, the embedded model's last. */
export function modelFoldersOf(config: Config): ModelFolders {
  return modelFolders([...config.models, ASSETS, uploadRoot()], extraFolders(config));
}
