import { expect, test } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { fromFloat, type Tensor } from "../tensor/index.ts";
import type { Peer } from "./peer.ts";
import type { ModelInfo } from "./types.ts";
import { uploadModel } from "./upload-model.ts";

/** Three frames' worth. */
const data = new Float32Array(10 * 2 ** 20);
const tensors = new Map(
  ["a", "b", "c"].map((name): [string, Tensor] => [
    name,
    fromFloat({ shape: [data.length], data }),
  ]),
);
const info = { id: "diffusion_models/x.safetensors" } as ModelInfo;

/** A daemon that is started again before it gets its second frame. */
function restartedPeer(): Peer & { sent: string[] } {
  let era = {};
  let received = 0;
  const sent: string[] = [];
  const request = async (body: { offset: number; last: boolean }, frame: typeof tensors) => {
    sent.push([...frame.keys()].join());
    if (sent.length === 2) {
      era = {};
      received = 0;
    }
    if (body.offset !== received) throw new LunaError("REQUEST_INVALID", "begin it again");
    for (const { bytes } of frame.values()) received += bytes.byteLength;
    return { data: { received, ...(body.last ? { model: info } : {}) } };
  };
  return {
    get era() {
      return era;
    },
    sent,
    request: request as unknown as Peer["request"], // Only uploads are sent.
    close: async () => undefined,
  };
}

test("an upload begins again with the daemon that followed", async () => {
  const peer = restartedPeer();
  expect(await uploadModel(peer, tensors)).toBe(info);
  expect(peer.sent).toEqual(["a", "b", "a", "b", "c"]);
});

test("tensors that come once cannot be sent again", async () => {
  await expect(uploadModel(restartedPeer(), tensors.entries())).rejects.toMatchObject({
    code: "REQUEST_INVALID",
  });
});
