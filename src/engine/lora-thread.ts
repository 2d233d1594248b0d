/** A thread that reads adapter files; see lora-reader.ts. */
import assert from "node:assert/strict";
import { parentPort } from "node:worker_threads";
import { LunaError } from "../kernel/index.ts";
import { buffersOf, type LoraModel } from "../lora/index.ts";
import { readLoraFile } from "./lora-file.ts";
import type { ReadResult, ReadTask } from "./lora-reader.ts";
import { encodeError } from "./messages.ts";
import { SparePieces } from "./spare-pieces.ts";

const port = parentPort;
assert(port !== null, "This module runs in a thread.");
const models = new Map<string, LoraModel>();
const spares = new SparePieces();

async function read({ id, path, modelKey, model, share }: ReadTask): Promise<ReadResult> {
  try {
    if (model !== undefined) models.set(modelKey, model);
    const known = models.get(modelKey);
    assert(known !== undefined, "A model comes with the first file that is read for it.");
    const parsed = await readLoraFile(path, known, { ...share, newPiece: spares.take });
    return parsed === undefined ? { id } : { id, parsed };
  } catch (error) {
    return { id, error: encodeError(LunaError.from(error)) };
  }
}

port.on("message", (task: ReadTask) => {
  spares.begin();
  void read(task).then((result) => {
    const buffers = result.parsed === undefined ? [] : buffersOf(result.parsed);
    port.postMessage(result, buffers);
    spares.end();
  });
});
