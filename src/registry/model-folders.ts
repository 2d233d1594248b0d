/** Which folders hold which kind of model, laid out and named as in ComfyUI. */
import { isAbsolute, join, normalize, resolve } from "node:path";
import { parse as parseYaml } from "yaml";
import { LunaError } from "../kernel/index.ts";
import { EXTRA_PATHS_BYTES_MAX } from "./limits.ts";

/** Kind of model to the names of its folders below a models folder, the first one wins. */
export const MODEL_KINDS = {
  checkpoints: ["checkpoints"],
  diffusion_models: ["unet", "diffusion_models"],
  text_encoders: ["text_encoders", "clip"],
  vae: ["vae"],
  vae_approx: ["vae_approx"],
  loras: ["loras"],
  embeddings: ["embeddings"],
  controlnet: ["controlnet", "t2i_adapter"],
} as const satisfies Record<string, readonly string[]>;

export type ModelKind = keyof typeof MODEL_KINDS;

/** Absolute folders of each kind, in the order in which they are searched. */
export type ModelFolders = Readonly<Record<ModelKind, readonly string[]>>;

/** Older names of kinds that ComfyUI still takes. */
export const KIND_ALIASES: Readonly<Record<string, ModelKind>> = {
  unet: "diffusion_models",
  clip: "text_encoders",
};

export const ALL_KINDS = Object.keys(MODEL_KINDS) as readonly ModelKind[]; // The table's own keys.

export function isModelKind(name: string): name is ModelKind {
  return Object.hasOwn(MODEL_KINDS, name);
}

/** One folder of an extra_model_paths.yaml. */
export type ExtraFolder = Readonly<{ kind: ModelKind; folder: string; isDefault: boolean }>;

/** The folders of all `roots` (laid out as ComfyUI's "models"), then the extra ones. */
export function modelFolders(
  roots: readonly string[],
  extra: readonly ExtraFolder[] = [],
): ModelFolders {
  const folders = Object.fromEntries(
    ALL_KINDS.map((kind): [ModelKind, string[]] => [
      kind,
      roots.flatMap((root) => MODEL_KINDS[kind].map((name) => join(resolve(root), name))),
    ]),
  ) as Record<ModelKind, string[]>; // Every kind has an entry.
  for (const { kind, folder, isDefault } of extra) {
    const others = folders[kind].filter((known) => known !== folder);
    const isKnown = others.length < folders[kind].length;
    if (isDefault) folders[kind] = [folder, ...others];
    else if (!isKnown) folders[kind] = [...others, folder];
  }
  return folders;
}

export type ExtraPathsContext = Readonly<{
  /** Folder of the file itself, for relative paths. */
  directory: string;
  /** For "~" and "$NAME" in base_path. */
  home: string;
  environment: Readonly<Record<string, string | undefined>>;
}>;

/**
 * Reads ComfyUI's extra_model_paths.yaml: sections of `kind: folder` lines (several folders in a
 * block scalar), with `base_path` and `is_default`. Kinds that are not served here are skipped.
 * Throws CONFIG_INVALID.
 */
export function parseExtraModelPaths(text: string, context: ExtraPathsContext): ExtraFolder[] {
  if (text.length > EXTRA_PATHS_BYTES_MAX) {
    throw invalid(`it has ${text.length} characters, limit ${EXTRA_PATHS_BYTES_MAX}`);
  }
  let root: unknown;
  try {
    root = parseYaml(text);
  } catch (cause) {
    throw invalid(`it is not YAML (${(cause as Error).message.split("\n")[0]})`, cause);
  }
  if (root === null || root === undefined) return [];
  if (!isRecord(root)) throw invalid("it has no sections");
  return Object.entries(root).flatMap(([name, section]) => {
    if (section === null) return [];
    if (!isRecord(section)) throw invalid(`section "${name}" has no lines of "kind: folder"`);
    return parseSection(name, section, context);
  });
}

function parseSection(
  name: string,
  section: Record<string, unknown>,
  context: ExtraPathsContext,
): ExtraFolder[] {
  const { base_path: basePath, is_default: isDefault = false, ...kinds } = section;
  if (basePath !== undefined && typeof basePath !== "string") {
    throw invalid(`base_path of section "${name}" is not a path`);
  }
  const base = resolve(context.directory, expand(basePath ?? "", context));
  return Object.entries(kinds).flatMap(([key, value]) => {
    const kind = KIND_ALIASES[key] ?? key;
    if (!isModelKind(kind)) return [];
    if (typeof value !== "string") throw invalid(`"${key}" of section "${name}" is not a path`);
    const lines = value.split("\n").filter((line) => line.length > 0);
    return lines.map((line) => ({
      kind,
      folder: withoutEnd(normalize(isAbsolute(line) ? line : join(base, line))),
      isDefault: isDefault === true,
    }));
  });
}

const withoutEnd = (path: string): string => (path.length > 1 ? path.replace(/[\\/]$/, "") : path);

/** "~" at the beginning, $NAME, ${NAME} and %NAME%; unknown names stay as they are. */
function expand(path: string, { home, environment }: ExtraPathsContext): string {
  const expanded = path.replace(/^~(?=$|[\\/])/, () => home);
  return expanded.replace(/\$\{(\w+)\}|\$(\w+)|%(\w+)%/g, (whole, braced, plain, percent) => {
    return environment[braced ?? plain ?? percent] ?? whole;
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(reason: string, cause?: unknown): LunaError {
  return new LunaError("CONFIG_INVALID", `extra_model_paths.yaml cannot be used: ${reason}.`, {
    cause,
  });
}
