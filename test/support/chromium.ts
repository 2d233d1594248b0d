import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";

const PLACES = [
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
];

/** A Chromium on this machine; tests of pages are skipped without one. */
export const chromiumPath: string | undefined = PLACES.find((path) => existsSync(path));

/** As root there is no sandbox; the pages are our own. */
export async function openChromium(): Promise<Browser> {
  if (chromiumPath === undefined) throw new Error("There is no Chromium on this machine.");
  return await chromium.launch({ executablePath: chromiumPath, args: ["--no-sandbox"] });
}
