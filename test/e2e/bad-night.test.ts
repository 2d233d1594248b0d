/** What befalls a daemon as a process: its port, its socket, its output, its end, its folders. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type LunaProcess, startAndAwait, startLuna } from "../../src/cli/child-process.ts";
import { type DaemonModel, openModels } from "../../src/client/index.ts";
import { makePicture } from "../support/pictures.ts";
import { TINY, tinyModels } from "../support/real-daemon.ts";

const isWindows = process.platform === "win32";
const isLinux = process.platform === "linux";
/** With spaces, quotes, and characters of several bytes. */
const ODD_NAME = `mö del – "x" 模型 😀 #1 %20`;

const owned: { close: () => Promise<unknown> }[] = [];
const temporary = mkdtempSync(join(tmpdir(), "luna-night-"));
const folder = join(temporary, isWindows ? "mö del 模型 #1 %20" : ODD_NAME);
beforeAll(async () => {
  const models = await tinyModels();
  cpSync(models, folder, { recursive: true });
  rmSync(models, { recursive: true });
});
afterEach(async () => {
  for (const thing of owned.splice(0).reverse()) await thing.close();
});
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

const flags = (port: number | string, socket = "off") => [
  ...["serve", "--port", String(port), "--socket", socket, "--models", folder],
  ...["--device", "cpu", "--threads", "1", "--batch-rows", "1"],
];

async function serve(args: readonly string[]): Promise<{ luna: LunaProcess; url: string }> {
  const { process: luna, value } = await startAndAwait(
    args,
    (line) => /running on localhost:(\d+)/.exec(line)?.[1],
  );
  owned.push({ close: luna.stop });
  return { luna, url: `ws://127.0.0.1:${value}` };
}

async function open(url: string, graceMs?: number) {
  const client = await openModels({
    ...{ mode: "force_daemon", url, client: { name: "nämé 模", version: "1" } },
    ...(graceMs === undefined ? {} : { graceMs }),
  });
  owned.push(client);
  const { model } = await client.registerModelByPath({ name: TINY });
  if (model === undefined) throw new Error("The tiny checkpoint has a UNet.");
  return { client, model };
}

/** Of a daemon that does not start: its exit code and what it said. */
async function refusal(args: readonly string[]): Promise<{ code: number; errors: string }> {
  const luna = startLuna(args, () => undefined);
  owned.push({ close: luna.stop });
  return { code: await luna.exited, errors: luna.errors() };
}

const picture = (model: DaemonModel, steps = 2) => makePicture(model, 1, { steps });

test("a port that is taken is told at once, by a supervised daemon too", async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  owned.push({ close: () => new Promise((resolve) => server.close(resolve)) });
  const { port } = server.address() as AddressInfo;
  const outcomes = await Promise.all([
    refusal(flags(port)),
    refusal([...flags(port), "--supervise"]),
  ]);
  for (const { code, errors } of outcomes) {
    expect(code).toBe(2);
    expect(errors).toMatch(/in use, perhaps by another daemon.*CONFIG_INVALID/);
  }
});

test.skipIf(isWindows)(
  "a killed daemon's socket is taken over; a file, a living daemon's socket or a long path is not",
  async () => {
    const socket = join(temporary, "luna.sock");
    const first = await serve(flags(0, socket));
    const { client } = await open(`ws+unix:${socket}:/v1/ws`, 0);
    const file = join(temporary, "notes.txt");
    writeFileSync(file, "keep");
    const outcomes = await Promise.all(
      [socket, file, join(temporary, "x".repeat(120))].map((path) => refusal(flags(0, path))),
    );
    expect(outcomes.map(({ code }) => code)).toEqual([2, 2, 2]);
    expect(outcomes[0]?.errors).toContain("Another daemon listens");
    expect(outcomes[1]?.errors).toContain("is no socket");
    expect(outcomes[2]?.errors).toContain("limit");
    expect(readFileSync(file, "utf8")).toBe("keep");
    expect(await client.ping()).toBeGreaterThan(0);
    first.luna.child.kill("SIGKILL");
    await first.luna.exited;
    await serve(flags(0, socket));
    await picture((await open(`ws+unix:${socket}:/v1/ws`)).model);
  },
);

test.skipIf(isWindows)(
  "SIGTERM in a step: the daemon ends at once, and the step goes to the one that follows",
  async () => {
    const first = await serve(flags(0));
    const port = new URL(first.url).port;
    const { model } = await open(first.url);
    const expected = await picture(model, 60);
    const interrupted = picture(model, 60);
    await new Promise((resolve) => setTimeout(resolve, 50));
    first.luna.child.kill("SIGTERM");
    expect(await first.luna.exited).toBe(0);
    // The port is free again although connections of the old daemon linger (TIME_WAIT).
    await serve(flags(port));
    expect(await interrupted).toEqual(expected);
  },
);

test("a daemon serves on when nobody reads its output any more, and logs nothing for each step", async () => {
  const { luna, url } = await serve([...flags(0), "--log-level", "info"]);
  const { model } = await open(url);
  const expected = await picture(model);
  let bytes = 0;
  luna.child.stderr?.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
  });
  await picture(model, 100);
  expect(bytes).toBe(0);
  luna.child.stdout?.destroy();
  luna.child.stderr?.destroy();
  for (let n = 0; n < 3; n++) {
    const again = await open(url);
    expect(await picture(again.model)).toEqual(expected);
    await again.client.close();
  }
});

test.skipIf(!isLinux)(
  "connections, loads and unloads leave no file descriptor behind",
  async () => {
    const { url } = await serve(flags(0));
    const { client } = await open(url);
    const { daemon, engine } = await client.status();
    const count = () => [daemon, engine].map(({ pid }) => readdirSync(`/proc/${pid}/fd`).length);
    const visit = async () => {
      const { client: guest, model } = await open(url);
      await picture(model, 1);
      await guest.close();
      await client.unload(TINY);
    };
    await visit();
    const before = count();
    for (let n = 0; n < 30; n++) await visit();
    await expect.poll(count).toEqual(before);
  },
);
