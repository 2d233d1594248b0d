/** The dashboard in a real browser, on a daemon whose nets are the arithmetic of fake-engine.ts. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { AxeResults } from "axe-core";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { openModels } from "../../src/client/index.ts";
import { readConfig } from "../../src/kernel/index.ts";
import { createPictureMaker } from "../../src/picture-maker.ts";
import { chromiumPath, openChromium } from "../support/chromium.ts";
import { createTestDaemon, TEST_MODEL } from "../support/test-daemon.ts";

if (!chromiumPath) process.stderr.write("Dashboard tests are skipped: no Chromium here.\n");
const inBrowser = test.skipIf(!chromiumPath);
const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core"), "utf8");

let browser: Browser | undefined;
beforeAll(async () => {
  if (chromiumPath) browser = await openChromium();
});
afterAll(() => browser?.close());

const owned: { close: () => Promise<unknown> }[] = [];
afterEach(async () => {
  for (const thing of owned.splice(0).reverse()) await thing.close();
});

async function start(token?: string) {
  const daemon = await createTestDaemon(token === undefined ? {} : { tokens: [{ token }] });
  owned.push(daemon);
  const config = readConfig({ flags: { models: [daemon.folder] }, environment: {} });
  const tryIt = createPictureMaker(daemon.core, config);
  const { port, url } = await daemon.listen({ tryIt });
  return { daemon, url, page: `http://127.0.0.1:${port}/` };
}

/** A page and what its console complained about. */
async function visit(url: string, options: BrowserContextOptions = {}) {
  if (!browser) throw new Error("no browser");
  const context = await browser.newContext(options);
  owned.push(context);
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(url);
  return { page, complaints };
}

const connected = (page: Page) => page.waitForSelector('#state[data-open="true"]');
const bodyOf = (page: Page, id: string, text: string) =>
  page.waitForSelector(`#${id} >> text=${text}`);

/** Everything that axe finds broken, best practices included. */
async function issuesOf(page: Page): Promise<string[]> {
  await page.evaluate(axeSource);
  const results = (await page.evaluate("axe.run()")) as AxeResults;
  return results.violations.map(
    ({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map(({ html }) => html).join(" ")}`,
  );
}

const PHONE = { width: 360, height: 740 };
const WIDE = { width: 1280, height: 900 };

inBrowser("models are loaded, pinned and unloaded by buttons; errors are shown", async () => {
  const { page: address, url } = await start();
  const { page, complaints } = await visit(address);
  await connected(page);
  await page.selectOption("#preload-model", TEST_MODEL);
  await page.click("#preload-form button");
  await bodyOf(page, "models", "sd1");
  await page.click('#models button:text-is("Pin")');
  await bodyOf(page, "models", "Unpin");
  await page.click('#models button:text-is("Unpin")');
  await page.click('#models button:text-is("Unload")');
  await page.waitForSelector("#models-empty:not([hidden])");
  const client = await openModels({
    ...{ mode: "force_daemon", url, client: { name: "somebody", version: "1" } },
  });
  owned.push(client);
  await bodyOf(page, "clients", "somebody");
  await client.unload("nothing").catch(() => undefined);
  await bodyOf(page, "errors", "MODEL_UNKNOWN");
  expect(complaints).toEqual([]);
});

inBrowser("four sessions make four pictures, and the strip shows who shared steps", async () => {
  const { page: address } = await start();
  const { page, complaints } = await visit(address, { viewport: WIDE });
  await connected(page);
  await page.waitForSelector("#try-model option", { state: "attached" });
  await page.fill("#steps", "4");
  await page.click("#try-start");
  await page.waitForSelector("#try-note:has-text('Four pictures')");
  expect(await page.locator("#tiles img").count()).toBe(4);
  await page.waitForSelector("#strip-summary:has-text('shared')");
  await page.click("#strip-details summary");
  await bodyOf(page, "strip-rows", "try-it 2");
  expect(await page.locator("#strip").textContent()).toContain("try-it 3");
  // The same content in each look, open table, tiles and strip included.
  for (const colorScheme of ["light", "dark"] as const) {
    for (const viewport of [WIDE, PHONE]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize(viewport);
      expect(await issuesOf(page), `${colorScheme}, ${viewport.width} wide`).toEqual([]);
      expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(viewport.width);
    }
  }
  expect(complaints).toEqual([]);
});

inBrowser(
  "every control is reached by Tab, has a name and shows that it has the focus",
  async () => {
    const { page: address } = await start();
    const { page } = await visit(address, { viewport: PHONE });
    await connected(page);
    await page.waitForSelector("#try-model option", { state: "attached" });
    await page.keyboard.press("Tab");
    expect(await page.evaluate("document.activeElement.textContent")).toBe("Skip to content");
    type Stop = { name: string; outline: string };
    const stops: Stop[] = [];
    for (let press = 0; press < 60; press++) {
      const stop = (await page.evaluate(`(() => {
      const at = document.activeElement;
      if (at === document.body) return null;
      const label = at.labels?.[0]?.textContent ?? at.getAttribute("aria-label") ??
        document.getElementById(at.getAttribute("aria-labelledby"))?.textContent;
      return { name: (label ?? at.textContent).trim(), outline: getComputedStyle(at).outlineStyle };
    })()`)) as Stop | null;
      if (stop === null) break;
      stops.push(stop);
      await page.keyboard.press("Tab");
    }
    const names = stops.map(({ name }) => name);
    for (const name of [
      "Prompt",
      "Model",
      "Seed",
      "Another seed",
      "LoRA of session 4",
      "OpenAPI",
    ]) {
      expect(names).toContain(name);
    }
    expect(stops.filter(({ name, outline }) => name === "" || outline !== "solid")).toEqual([]);
    await page.focus("#try-start");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#try-note:has-text('Four pictures')");
  },
);

inBrowser("with a token set the page asks for it", async () => {
  const { page: address } = await start("a long secret, ünlike others");
  const { page } = await visit(address);
  await page.waitForSelector("#token-dialog[open]");
  expect(await issuesOf(page)).toEqual([]);
  await page.fill("#token", "wrong");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#token-problem:has-text('does not know')");
  await page.fill("#token", "a long secret, ünlike others");
  await page.keyboard.press("Enter");
  await connected(page);
  await page.waitForSelector("#clients >> text=dashboard");
});

inBrowser("a page of another site gets neither figures nor a session", async () => {
  const { page: address, url } = await start();
  const stranger = await start();
  const { page } = await visit(stranger.page);
  // The policy of our own page must not be what stops it.
  await page.goto("about:blank");
  const answers = await page.evaluate(
    async ([http, ws]) => {
      const fetched = await fetch(`${http}v1/status`).then(
        () => "answered",
        () => "refused",
      );
      const opened = await new Promise((resolve) => {
        const socket = new WebSocket(`${ws}/v1/ws`);
        socket.onopen = () => resolve("opened");
        socket.onerror = () => resolve("refused");
      });
      return [fetched, opened];
    },
    [address, url],
  );
  expect(answers).toEqual(["refused", "refused"]);
});
