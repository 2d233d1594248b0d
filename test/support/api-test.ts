/**
 * What the files test/e2e/instance-*.test.ts share: an instance over a test daemon, prompts of two
 * nodes, and a run to its end. E is EmptyImage, S SaveImage.
 */
import { expect } from "vitest";
import type { NodeDefinition } from "../../src/nodes/index.ts";
import { createTestDaemon } from "./test-daemon.ts";
import { type Json, type Listener, startTestInstance, type TestInstance } from "./test-instance.ts";

export type Run = Readonly<{ id: string; entry: Json; listener: Listener }>;

export type ApiTest = Readonly<{
  here: TestInstance;
  /** Queues a prompt as a client of its own and waits for its end. */
  run: (prompt: Json, extra?: Json) => Promise<Run>;
  close: () => Promise<void>;
}>;

export async function startApiTest(nodes: readonly NodeDefinition[] = []): Promise<ApiTest> {
  const daemon = await createTestDaemon();
  const { url } = await daemon.listen();
  const here = await startTestInstance({ daemonUrl: url, nodes });
  let clients = 0;
  return {
    here,
    async run(prompt, extra = {}) {
      const client_id = `client-${++clients}`;
      const listener = await here.listen(client_id);
      listener.messages.length = 0;
      const { status, json } = await here.post("/prompt", { prompt, client_id, ...extra });
      expect([status, json.error]).toEqual([200, undefined]);
      await listener.end(json.prompt_id);
      const entry = (await here.get(`/history/${json.prompt_id}`))[json.prompt_id];
      return { id: json.prompt_id, entry, listener };
    },
    async close() {
      await here.close();
      await daemon.close();
    },
  };
}

let colors = 0;
/** A picture no other test has made, so that nothing is cached. */
export const E = (changes: Json = {}): Json => ({
  class_type: "EmptyImage",
  inputs: { width: 64, height: 32, batch_size: 1, color: ++colors, ...changes },
});

export const S = (from = "1", changes: Json = {}): Json => ({
  class_type: "SaveImage",
  inputs: { images: [from, 0], filename_prefix: "p", ...changes },
});

/** Types of a client's messages in order; "executing" with its node. */
export const typesOf = (listener: Listener): string[] =>
  listener.messages.map((m) => {
    if (m.type === "executing" && "data" in m) return `executing ${m.data["node"]}`;
    return m.type;
  });

/** Types of the errors that a refused prompt has at a node. */
export const errorsOf = (json: Json, node: string): string[] =>
  (json.node_errors[node]?.errors ?? []).map((error: Json) => error.type);
