/** /models, /embeddings and /view_metadata: the model folders, the daemon's and this machine's. */
import { open } from "node:fs/promises";
import type { FileKind, NodeServices } from "../../nodes/index.ts";
import type { ModelFiles } from "../../registry/index.ts";
import { readSafetensorsHeader } from "../../tensor/index.ts";
import { jsonReply, type Reply, type Request, type Routes } from "./router.ts";

export type ModelRoutesOptions = Readonly<{
  services: NodeServices;
  /** This machine's model folders: what a file says of itself is read there. */
  files: Pick<ModelFiles, "find">;
}>;

export const KINDS: readonly FileKind[] = [
  "checkpoints",
  "controlnet",
  "diffusion_models",
  "embeddings",
  "loras",
  "text_encoders",
  "vae",
  "vae_approx",
];

export function modelRoutes({ services, files }: ModelRoutesOptions): Routes {
  return {
    "GET /embeddings": async () => {
      const names = await services.listFiles("embeddings");
      return jsonReply(names.map((name) => name.replace(/\.[^./]+$/, "")));
    },
    "GET /models": () => jsonReply(KINDS),
    "GET /models/:folder": async ({ params }) => {
      const kind = kindOf(params["folder"]);
      return kind === undefined ? { status: 404 } : jsonReply(await services.listFiles(kind));
    },
    "GET /experiment/models": () => jsonReply(KINDS.map((name) => ({ name, folders: [] }))),
    "GET /experiment/models/:folder": ({ params }) => modelFiles(params["folder"], services),
    "GET /view_metadata/:folder": (request) => viewMetadata(request, files),
  };
}

function kindOf(folder: string | undefined): FileKind | undefined {
  return KINDS.find((kind) => kind === folder);
}

async function modelFiles(folder: string | undefined, services: NodeServices): Promise<Reply> {
  const kind = kindOf(folder);
  if (kind === undefined) return { status: 404 };
  const names = await services.listFiles(kind);
  // The files may be the daemon's, on another machine: their dates are not known here.
  const facts = { pathIndex: 0, modified: 0, created: 0, size: 0 };
  return jsonReply(names.map((name) => ({ name, ...facts })));
}

/** What a .safetensors file says of itself in `__metadata__`; 404 where it says nothing. */
async function viewMetadata(
  { params, query }: Request,
  files: ModelRoutesOptions["files"],
): Promise<Reply> {
  const [kind, name] = [kindOf(params["folder"]), query.get("filename")];
  if (kind === undefined || name?.endsWith(".safetensors") !== true) return { status: 404 };
  const found = await files.find(kind, name);
  if (found === undefined) return { status: 404 };
  const metadata = await readMetadata(found.path);
  return Object.keys(metadata).length === 0 ? { status: 404 } : jsonReply(metadata);
}

/** Throws TENSOR_MALFORMED. */
async function readMetadata(path: string): Promise<Readonly<Record<string, string>>> {
  const file = await open(path);
  try {
    const readAt = async (offset: number, length: number) => {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
      return buffer.subarray(0, bytesRead);
    };
    return (await readSafetensorsHeader(readAt, (await file.stat()).size)).metadata;
  } finally {
    await file.close();
  }
}
