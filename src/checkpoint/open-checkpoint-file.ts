import { open } from "node:fs/promises";
import { LunaError } from "../kernel/index.ts";
import { readSafetensorsHeader } from "../tensor/index.ts";
import { openCheckpoint } from "./open-checkpoint.ts";
import type { Checkpoint } from "./types.ts";

/**
 * Reads the header of a file and tells what it holds; weights are not read. `name` stands for the
 * file in messages. Throws FILE_UNREADABLE when it is missing, cut off or no safetensors file,
 * CHECKPOINT_UNSUPPORTED when it holds something else.
 */
export async function openCheckpointFile(path: string, name: string = path): Promise<Checkpoint> {
  const file = await open(path, "r").catch((cause: unknown) => {
    const { code } = cause as NodeJS.ErrnoException;
    const reason = code === "ENOENT" ? "there is no such file" : (code ?? String(cause));
    throw new LunaError("FILE_UNREADABLE", `${name} cannot be read: ${reason}.`, { cause });
  });
  try {
    const readAt = async (offset: number, length: number): Promise<Uint8Array> => {
      const bytes = new Uint8Array(length);
      const { bytesRead } = await file.read(bytes, 0, length, offset);
      return bytes.subarray(0, bytesRead);
    };
    const header = await readSafetensorsHeader(readAt, (await file.stat()).size);
    return await openCheckpoint(header, async ({ dtype, shape, begin, end }) => ({
      dtype,
      shape,
      bytes: await readAt(begin, end - begin),
    }));
  } catch (cause) {
    if (LunaError.isCode(cause, "CHECKPOINT_UNSUPPORTED")) {
      throw new LunaError(cause.code, `${name}: ${cause.message}`, { cause });
    }
    if (!LunaError.isCode(cause, "TENSOR_MALFORMED")) throw cause;
    throw new LunaError("FILE_UNREADABLE", `${name} is damaged or incomplete: ${cause.message}`, {
      cause,
    });
  } finally {
    await file.close();
  }
}
