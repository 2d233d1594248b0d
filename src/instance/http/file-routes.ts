/** /view and /upload: pictures of the input, output and temp folders. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { LunaError } from "../../kernel/index.ts";
import {
  pickChannel,
  readPictureFile,
  toPngFile,
  toSmallFile,
  withAlphaOf,
} from "../../nodes/index.ts";
import { isJsonObject, type Json, parseJson } from "../../workflow/index.ts";
import { type InstanceFolders, pathBelow } from "../folders.ts";
import { UPLOAD_NAMES_MAX } from "../limits.ts";
import { jsonReply, type Reply, type Request, type Routes, textReply } from "./router.ts";
import { sendFile, typeOf } from "./send-file.ts";

export function fileRoutes(folders: InstanceFolders): Routes {
  return {
    "GET /view": (request) => view(request, folders),
    "POST /upload/image": async (request) => upload(await readForm(request), folders),
    "POST /upload/mask": async (request) => uploadMask(await readForm(request), folders),
  };
}

type FolderType = keyof InstanceFolders;

function folderOf(type: string, folders: InstanceFolders): string | undefined {
  return Object.hasOwn(folders, type) ? folders[type as FolderType] : undefined;
}

/** "a.png [input]" says its folder itself. */
function parseName(filename: string, type: string): { name: string; type: string } {
  const match = /^(.*) ?\[(input|output|temp)\]$/.exec(filename);
  const [, name = "", named = ""] = match ?? [];
  return match === null ? { name: filename, type } : { name: name.trimEnd(), type: named };
}

/** Where a picture lies, or the reply that says why it may not be read. */
function locate(
  { filename, subfolder, type }: { filename: string; subfolder: string; type: string },
  folders: InstanceFolders,
): string | Reply {
  const parsed = parseName(filename, type);
  const root = folderOf(parsed.type, folders);
  if (root === undefined || parsed.name.startsWith("/") || parsed.name.includes("..")) {
    return { status: 400 };
  }
  try {
    return join(pathBelow(root, subfolder), basename(parsed.name));
  } catch (error) {
    if (LunaError.isCode(error, "PATH_REFUSED")) return { status: 403 };
    throw error;
  }
}

async function view(request: Request, folders: InstanceFolders): Promise<Reply> {
  const { query } = request;
  const filename = query.get("filename");
  if (filename === null || filename === "") return { status: 404 };
  const [subfolder, type] = [query.get("subfolder") ?? "", query.get("type") ?? "output"];
  const path = locate({ filename, subfolder, type }, folders);
  if (typeof path !== "string") return path;
  const name = basename(path).replace(/[\r\n"]/g, "_");
  const headers = {
    "content-disposition": `filename="${encodeURIComponent(name)}"`,
    // A file that a browser would run as a page is handed over as bytes.
    "content-type": /html|javascript|svg|css/.test(typeOf(path))
      ? "application/octet-stream"
      : typeOf(path),
  };
  const made = await otherForm(path, { name, query });
  if (made !== undefined) return { ...made, headers: { ...headers, ...made.headers } };
  return (await sendFile(path, request, headers)) ?? { status: 404 };
}

const QUALITY = 90;

/** A picture in another format or with some of its channels, where the address asks for that. */
async function otherForm(
  path: string,
  { name, query }: { name: string; query: URLSearchParams },
): Promise<Reply | undefined> {
  const channel = query.get("channel") ?? "";
  const preview = query.get("preview")?.split(";");
  if (preview === undefined && channel !== "rgb" && channel !== "a") return undefined;
  const bytes = await readFile(path).catch(() => undefined);
  if (bytes === undefined) return { status: 404 };
  const picture = await readPictureFile(bytes, name);
  if (preview === undefined) {
    const body = toPngFile(pickChannel(picture, channel === "a" ? "a" : "rgb"));
    return { headers: { "content-type": "image/png" }, body };
  }
  // ComfyUI's rules: webp wherever transparency is wanted, and for every format it does not know.
  const format = preview[0] === "jpeg" && !channel.includes("a") ? "jpeg" : "webp";
  const quality = /^\d+$/.test(preview.at(-1) ?? "") ? Number(preview.at(-1)) : QUALITY;
  const shown = channel === "rgb" ? pickChannel(picture, "rgb") : picture;
  const body = await toSmallFile(shown, format, Math.min(quality, 100));
  return { headers: { "content-type": `image/${format}` }, body };
}

type Form = Readonly<{
  image: Readonly<{ name: string; bytes: Uint8Array }> | undefined;
  field: (name: string) => string | undefined;
}>;

async function readForm(request: Request): Promise<Form> {
  const body = await request.body();
  const headers = { "content-type": request.headers["content-type"] ?? "" };
  let form: FormData;
  try {
    form = await new Response(new Uint8Array(body), { headers }).formData();
  } catch (cause) {
    throw new LunaError("REQUEST_INVALID", "The body is not a multipart form.", { cause });
  }
  const image = form.get("image");
  return {
    image:
      image === null || typeof image === "string"
        ? undefined
        : { name: image.name, bytes: new Uint8Array(await image.arrayBuffer()) },
    field: (name) => {
      const value = form.get(name);
      return typeof value === "string" ? value : undefined;
    },
  };
}

async function upload({ image, field }: Form, folders: InstanceFolders): Promise<Reply> {
  const type = field("type") ?? "input";
  const root = folderOf(type, folders);
  if (image === undefined || image.name === "" || root === undefined) return { status: 400 };
  const subfolder = field("subfolder") ?? "";
  let path: string;
  try {
    path = pathBelow(pathBelow(root, subfolder), image.name);
  } catch (error) {
    if (LunaError.isCode(error, "PATH_REFUSED")) return { status: 400 };
    throw error;
  }
  await mkdir(dirname(path), { recursive: true });
  const isForced = ["true", "1"].includes(field("overwrite") ?? "");
  const name = await store(path, image.bytes, isForced);
  return jsonReply({ name, subfolder, type });
}

/** Writes a file; another one of the same name stays, and the new one is counted up: "x (1).png". */
async function store(path: string, bytes: Uint8Array, isForced: boolean): Promise<string> {
  const extension = extname(path);
  const stem = basename(path, extension);
  for (let count = 0; count < UPLOAD_NAMES_MAX; count++) {
    const name = count === 0 ? `${stem}${extension}` : `${stem} (${count})${extension}`;
    const target = join(dirname(path), name);
    const existing = await readFile(target).catch(() => undefined);
    if (existing !== undefined && !isForced && !existing.equals(bytes)) continue;
    if (existing === undefined || isForced) await writeFile(target, bytes);
    return name;
  }
  throw new LunaError("LIMIT_EXCEEDED", `${UPLOAD_NAMES_MAX} pictures are called ${stem}.`);
}

/** Puts the transparency of the upload onto the picture that it masks. */
async function uploadMask(form: Form, folders: InstanceFolders): Promise<Reply> {
  const { image } = form;
  const reference = referenceOf(form.field("original_ref"));
  if (image === undefined || reference === undefined) {
    return textReply(400, "A mask needs the parts image and original_ref.");
  }
  const path = locate(reference, folders);
  if (typeof path !== "string") return path;
  const original = await readFile(path).catch(() => undefined);
  if (original === undefined) return { status: 404 };
  const [picture, mask] = [
    await readPictureFile(original, reference.filename),
    await readPictureFile(image.bytes, "image"),
  ];
  const bytes = toPngFile(withAlphaOf(picture, mask));
  return upload({ ...form, image: { name: image.name, bytes } }, folders);
}

function referenceOf(text: string | undefined) {
  let value: Json;
  try {
    value = parseJson(text ?? "");
  } catch (error) {
    if (LunaError.isCode(error, "WORKFLOW_INVALID")) return undefined;
    throw error;
  }
  if (!isJsonObject(value)) return undefined;
  const object = value;
  const field = (name: string, otherwise: string) => String(object.get(name) ?? otherwise);
  return {
    filename: field("filename", ""),
    subfolder: field("subfolder", ""),
    type: field("type", "output"),
  };
}
