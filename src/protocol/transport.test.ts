import { expect, test } from "vitest";
import { createMemoryTransportPair } from "./transport.ts";

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

test("frames arrive later, in order and as copies; early ones wait for a listener", async () => {
  const [here, there] = createMemoryTransportPair();
  const bytes = new Uint8Array([1, 2]);
  here.send([bytes, new Uint8Array([3])]);
  bytes[0] = 9;
  await turn();
  const received: number[][] = [];
  there.onMessage((frame) => received.push([...frame]));
  here.send([new Uint8Array([4]), new Uint8Array([5])]);
  expect(received).toEqual([[1, 2, 3]]);
  await turn();
  expect(received).toEqual([
    [1, 2, 3],
    [4, 5],
  ]);
});

test("a close from either side tells both once and ends the traffic", async () => {
  const [here, there] = createMemoryTransportPair();
  const told: string[] = [];
  here.onClose((reason) => told.push(`here ${reason}`));
  there.onClose((reason) => told.push(`there ${reason}`));
  there.onMessage(() => told.push("message"));
  there.close("enough");
  here.close("too");
  here.send([new Uint8Array([1]), new Uint8Array([1])]);
  await turn();
  expect(told.sort()).toEqual(["here too", "there enough"]);
});
