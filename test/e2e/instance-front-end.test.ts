/**
 * ComfyUI's own web front end in a real browser: loads without an error, opens a workflow, runs it and
 * shows the picture; a picture dropped on it brings its workflow back. Needs LUNA_FRONT_END_ROOT (folder "static" of the Python package
 * comfyui-frontend-package) and a Chromium (LUNA_CHROMIUM or the usual places).
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestDaemon, type TestDaemon } from "../support/test-daemon.ts";
import { startTestInstance, type TestInstance } from "../support/test-instance.ts";

const frontEndRoot = process.env["LUNA_FRONT_END_ROOT"] ?? "";
const places = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const executablePath = process.env["LUNA_CHROMIUM"] ?? places.find((path) => existsSync(path));
const isAbsent = executablePath === undefined || !existsSync(join(frontEndRoot, "index.html"));
if (isAbsent)
  process.stderr.write("Front end test skipped: LUNA_FRONT_END_ROOT or Chromium absent.\n");

/** The page is 12 MB of code; a busy machine without a GPU takes its time. */
const LOAD_MS_MAX = 120_000;

let daemon: TestDaemon;
let here: TestInstance;
let browser: Browser;
let page: Page;
const problems: string[] = [];

/** What runs in the page reaches the front end's own object. */
type FrontEnd = {
  app: {
    graph?: { nodes: readonly { type: string; imgs?: readonly unknown[] }[] };
    loadApiJson: (prompt: unknown, name: string) => void;
    handleFile: (file: File) => Promise<void>;
    extensionManager: { command: { execute: (id: string) => Promise<void> } };
  };
};

const prompt = {
  "3": {
    class_type: "KSampler",
    inputs: {
      ...{ seed: 5, steps: 3, cfg: 2, sampler_name: "euler", scheduler: "normal", denoise: 1 },
      model: ["4", 0],
      positive: ["6", 0],
      negative: ["6", 0],
      latent_image: ["5", 0],
    },
  },
  "4": { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: "test.safetensors" } },
  "5": { class_type: "EmptyLatentImage", inputs: { width: 64, height: 64, batch_size: 1 } },
  "6": { class_type: "CLIPTextEncode", inputs: { text: "a rocket", clip: ["4", 1] } },
  "8": { class_type: "VAEDecode", inputs: { samples: ["3", 0], vae: ["4", 2] } },
  "9": { class_type: "SaveImage", inputs: { images: ["8", 0], filename_prefix: "browser" } },
};

beforeAll(async () => {
  if (isAbsent) return;
  daemon = await createTestDaemon();
  const { url } = await daemon.listen();
  here = await startTestInstance({ daemonUrl: url, frontEndRoot });
  browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
  page.setDefaultTimeout(LOAD_MS_MAX);
  // The front end also looks for news and models elsewhere: this machine may be offline.
  const own = (url: string) => url.startsWith(here.instance.url);
  page.on("console", (message) => {
    const { url } = message.location();
    if (message.type() === "error" && (own(url) || url === "")) problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("response", (response) => {
    if (response.status() >= 400 && own(response.url())) {
      problems.push(`${response.status()} ${response.url()}`);
    }
  });
});
afterAll(async () => {
  if (isAbsent) return;
  await browser.close();
  await here.close();
  await daemon.close();
});

const nodeCount = () =>
  page.evaluate(() => (globalThis as unknown as FrontEnd).app.graph?.nodes.length ?? 0);

/** Pictures of nodes outside the view are not loaded. */
const fitView = () =>
  page.evaluate(() =>
    (globalThis as unknown as FrontEnd).app.extensionManager.command.execute(
      "Comfy.Canvas.FitView",
    ),
  );

async function shot(name: string): Promise<void> {
  const folder = process.env["LUNA_SCREENSHOTS"];
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`) });
}

test.skipIf(isAbsent)(
  "loads, opens a workflow, runs it, shows the picture, no errors",
  async () => {
    await page.goto(here.instance.url);
    await page.waitForFunction(() => (globalThis as unknown as FrontEnd).app?.graph !== undefined);
    await page.locator("[data-testid=queue-button]").first().waitFor();
    await page.evaluate((json) => {
      (globalThis as unknown as FrontEnd).app.loadApiJson(json, "test");
    }, prompt);
    expect(await nodeCount()).toBe(6);
    await fitView();
    await page.locator("[data-testid=queue-button]").first().click();
    await page.waitForFunction(() =>
      (globalThis as unknown as FrontEnd).app.graph?.nodes.some(
        ({ type, imgs }) => type === "SaveImage" && (imgs?.length ?? 0) > 0,
      ),
    );
    await shot("ran");
    expect(readdirSync(here.folders.output)).toEqual(["browser_00001_.png"]);
    expect(problems).toEqual([]);
  },
);

test.skipIf(isAbsent)("a saved picture brings its workflow back", async () => {
  const bytes = [...readFileSync(join(here.folders.output, "browser_00001_.png"))];
  await page.evaluate(async (data) => {
    const file = new File([new Uint8Array(data)], "browser.png", { type: "image/png" });
    await (globalThis as unknown as FrontEnd).app.handleFile(file);
  }, bytes);
  expect(await nodeCount()).toBe(6);
  await shot("restored");
  expect(problems).toEqual([]);
});
