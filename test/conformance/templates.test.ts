/**
 * Workflow templates of the Python package comfyui-workflow-templates, on the embedded model: each is
 * opened in ComfyUI's own front end, exported as an API prompt, made small, and run by an instance on
 * a daemon. Needs LUNA_TEMPLATES (a folder of *.json), LUNA_FRONT_END_ROOT and a Chromium.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { link, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { PNG } from "pngjs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startDaemon } from "../../src/daemon.ts";
import { readConfig } from "../../src/kernel/index.ts";
import { ASSETS } from "../../src/model-paths.ts";
import { chromiumPath, openChromium } from "../support/chromium.ts";
import { writeEmojiControl } from "../support/emoji-control.ts";
import { writeEmojiLora } from "../support/emoji-lora.ts";
import { smallPrompt, templateNodes } from "../support/templates.ts";
import { type Json, startTestInstance, type TestInstance } from "../support/test-instance.ts";

const folder = process.env["LUNA_TEMPLATES"] ?? "";
const frontEndRoot = process.env["LUNA_FRONT_END_ROOT"] ?? "";
const isAbsent =
  folder === "" || chromiumPath === undefined || !existsSync(join(frontEndRoot, "index.html"));
if (isAbsent) {
  process.stderr.write(
    "Templates test skipped: LUNA_TEMPLATES, LUNA_FRONT_END_ROOT or Chromium absent.\n",
  );
}
const names = isAbsent
  ? ["no templates"]
  : readdirSync(folder)
      .filter((name) => name.endsWith(".json"))
      .sort();

/** What runs in the page reaches the front end's own object. */
type FrontEnd = {
  app: {
    graph?: unknown;
    loadGraphData: (graph: unknown) => Promise<void>;
    graphToPrompt: () => Promise<{ output: Json }>;
  };
};

let daemon: Awaited<ReturnType<typeof startDaemon>>;
let here: TestInstance;
let browser: Browser;
let page: Page;
let root: string;
let objectInfo: Json;
const rows: string[] = [];

beforeAll(async () => {
  if (isAbsent) return;
  root = await mkdtemp(join(tmpdir(), "luna-templates-"));
  await mkdir(join(root, "vae"));
  const [model = ""] = readdirSync(join(ASSETS, "checkpoints"));
  await link(join(ASSETS, "checkpoints", model), join(root, "vae", model));
  await mkdir(join(root, "loras"));
  for (const name of ["a", "b"]) {
    await writeEmojiLora(join(root, "loras", `${name}.safetensors`), name);
  }
  await mkdir(join(root, "controlnet"));
  const checkpoint = join(ASSETS, "checkpoints", model);
  await writeEmojiControl(checkpoint, join(root, "controlnet", "seeded.safetensors"));
  daemon = await startDaemon(readConfig({ flags: { models: [root], port: "0", socket: "off" } }));
  here = await startTestInstance({ daemonUrl: daemon.listening.url, frontEndRoot });
  await writeFile(join(here.folders.input, "small.png"), smallPicture());
  objectInfo = await here.get("/object_info");
  browser = await openChromium();
  page = await browser.newPage();
  page.setDefaultTimeout(120_000);
  await page.goto(here.instance.url);
  await page.waitForFunction(() => (globalThis as unknown as FrontEnd).app?.graph !== undefined);
});

afterAll(async () => {
  if (isAbsent) return;
  process.stdout.write(`${rows.join("\n")}\n`);
  await browser.close();
  await here.close();
  await daemon.close();
  await rm(root, { recursive: true, force: true });
});

/** A disc whose outside is transparent, so that its mask has both kinds of pixels. */
function smallPicture(): Buffer {
  const png = new PNG({ width: 128, height: 128 });
  for (let i = 0; i < 128 * 128; i++) {
    const [x, y] = [i % 128, Math.floor(i / 128)];
    png.data.set([2 * x, 2 * y, 128, Math.hypot(x - 64, y - 64) < 40 ? 255 : 0], 4 * i);
  }
  return PNG.sync.write(png);
}

test.skipIf(isAbsent).for(names)("%s", async (name, { skip }) => {
  const graph = JSON.parse(readFileSync(join(folder, name), "utf8")) as Json;
  const missing = templateNodes(graph).filter((type) => objectInfo[type] === undefined);
  const title = basename(name, ".json");
  if (missing.length > 0) {
    const reason = `needs ${missing.join(", ")}`;
    rows.push(`| ${title} | no | ${reason} |`);
    skip(reason);
  }
  const prompt = await page.evaluate(async (json) => {
    const { app } = globalThis as unknown as FrontEnd;
    await app.loadGraphData(json);
    return (await app.graphToPrompt()).output;
  }, graph);
  const listener = await here.listen(title);
  const { status, json } = await here.post("/prompt", {
    prompt: smallPrompt(prompt, objectInfo),
    client_id: title,
  });
  expect(json.node_errors).toEqual({});
  expect(status).toBe(200);
  await listener.end(json.prompt_id);
  const entry = (await here.get(`/history/${json.prompt_id}`))[json.prompt_id];
  expect(entry.status.messages.at(-1)).toMatchObject(["execution_success", {}]);
  const pictures = Object.values(entry.outputs as Record<string, Json>).flatMap(
    ({ images }) => images ?? [],
  );
  expect(pictures.length).toBeGreaterThan(0);
  rows.push(`| ${title} | yes | ${pictures.length} |`);
});
