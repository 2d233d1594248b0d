import { createServer } from "node:net";
import { expect, test } from "vitest";
import { missingLibraries } from "./device-libraries.ts";
import { listeningInodes, portOwner } from "./port-owner.ts";

const TABLE = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:4B53 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1
   1: 0100007F:4B53 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
   2: 0100007F:4B54 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1`;

test("the listening socket of a port, not its connections", () => {
  expect(listeningInodes(TABLE, 19283)).toEqual(["4711"]);
  expect(listeningInodes(TABLE, 80)).toEqual([]);
});

test.runIf(process.platform === "linux")("the owner of a port is named", async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" ? address?.port : undefined;
  expect(portOwner(port ?? 0)).toContain(`pid ${process.pid} (`);
  await new Promise((resolve) => server.close(resolve));
});

test("libraries that the system does not list are named with where they come from", () => {
  const ldconfig =
    "2 libs found in cache\n\tlibvulkan.so.1 (libc6,x86-64) => /lib/libvulkan.so.1\n";
  expect(missingLibraries("webgpu", ldconfig)).toEqual([]);
  expect(missingLibraries("cuda", ldconfig)).toContain("libcudnn.so.9 of cuDNN 9");
});
