import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { startEngine } from "../../src/engine/index.ts";
import { FakeEngine } from "../support/fake-engine.ts";
import { writeTinyCheckpoint } from "../support/tiny-checkpoint.ts";
import { runEngineSuite } from "./engine.ts";

const folder = await mkdtemp(join(tmpdir(), "luna-conformance-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

runEngineSuite("fake engine", async () => ({ engine: new FakeEngine(), path: "tiny" }));

runEngineSuite("supervised engine", async () => {
  const path = join(folder, "tiny.safetensors");
  await writeTinyCheckpoint(path);
  return { engine: await startEngine({ device: "cpu", threads: 1 }), path };
});
