/** The web front end's own files, and a word for people who open an instance that has none. */
import { pathBelow } from "../folders.ts";
import { decodePart, type Reply, type Request, textReply } from "./router.ts";
import { sendFile } from "./send-file.ts";

const NO_FRONT_END = `This is a Luna instance: it answers ComfyUI's API.
Start it with --front-end-root DIR (the "static" folder of the Python package
comfyui-frontend-package) to see ComfyUI's own editor here.
`;

/** Undefined for a path that no file answers. */
export async function staticFile(
  root: string | undefined,
  path: string,
  request: Request,
): Promise<Reply | undefined> {
  const isIndex = path === "/";
  if (root === undefined) return isIndex ? textReply(200, NO_FRONT_END) : undefined;
  const name = isIndex ? "index.html" : decodePart(path.slice(1));
  const headers = name === "index.html" ? { "cache-control": "no-store" } : {};
  return await sendFile(pathBelow(root, name), request, headers);
}
