// ComfyUI's real frontend in Chromium: loads a workflow in API form, exports it as the menu's
// "Export (API)" does, and takes a picture of the canvas.
// Usage: node frontend.mjs COMFYUI_URL WORKFLOW.json EXPORTED.json PICTURE.png
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WebSocket } from "ws";

const [, , url, workflowPath, exportedPath, picturePath] = process.argv;
const profile = mkdtempSync(join(tmpdir(), "luna-chromium-"));
const chromium = spawn(
  process.env.CHROMIUM ?? "chromium",
  [
    ...["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"],
    ...["--remote-debugging-port=0", `--user-data-dir=${profile}`, "--window-size=1600,900"],
    "about:blank",
  ],
  { stdio: ["ignore", "ignore", "pipe"] },
);

/** The browser prints the address of its debugger. */
function debuggerAddress() {
  return new Promise((resolve, reject) => {
    let text = "";
    chromium.stderr.on("data", (chunk) => {
      text += chunk;
      const found = /DevTools listening on (ws:\S+)/.exec(text);
      if (found) resolve(found[1]);
    });
    chromium.once("exit", () => reject(new Error(`Chromium ended: ${text}`)));
  });
}

class Page {
  #socket;
  #session;
  #waiting = new Map();
  #next = 1;

  static async open(address) {
    const page = new Page();
    page.#socket = new WebSocket(address, { perMessageDeflate: false });
    await new Promise((resolve) => page.#socket.once("open", resolve));
    page.#socket.on("message", (data) => {
      const { id, result, error } = JSON.parse(data);
      const waiting = page.#waiting.get(id);
      if (error) waiting?.reject(new Error(error.message));
      else waiting?.resolve(result);
    });
    const { targetId } = await page.send("Target.createTarget", { url: "about:blank" });
    const attached = await page.send("Target.attachToTarget", { targetId, flatten: true });
    page.#session = attached.sessionId;
    return page;
  }

  send(method, params = {}) {
    const id = this.#next++;
    this.#socket.send(JSON.stringify({ id, method, params, sessionId: this.#session }));
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  async evaluate(expression) {
    const params = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", params);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description);
    return result.value;
  }

  async until(expression) {
    while (!(await this.evaluate(expression))) await new Promise((next) => setTimeout(next, 500));
  }

  close() {
    this.#socket.close();
  }
}

const timer = setTimeout(() => {
  console.error("The frontend did not get ready within five minutes.");
  chromium.kill("SIGKILL");
  process.exit(1);
}, 300_000);
try {
  const page = await Page.open(await debuggerAddress());
  await page.send("Emulation.setDeviceMetricsOverride", {
    ...{ width: 1600, height: 900, deviceScaleFactor: 1, mobile: false },
  });
  await page.send("Page.navigate", { url });
  await page.until(
    "!!window.app?.graph && Object.keys(LiteGraph.registered_node_types).length > 100",
  );
  const workflow = readFileSync(workflowPath, "utf8");
  await page.evaluate(`app.loadApiJson(${workflow}, "luna")`);
  await page.until("app.graph._nodes.length > 0");
  await page.evaluate("app.canvas.fitViewToSelectionAnimated?.(); app.graph.arrange?.(); 1");
  const exported = await page.evaluate("app.graphToPrompt().then((made) => made.output)");
  writeFileSync(exportedPath, `${JSON.stringify(exported, null, 2)}\n`);
  await page.evaluate(`(() => {
    const nodes = app.graph._nodes, canvas = app.canvas;
    const left = Math.min(...nodes.map((n) => n.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1]));
    const right = Math.max(...nodes.map((n) => n.pos[0] + n.size[0]));
    const bottom = Math.max(...nodes.map((n) => n.pos[1] + n.size[1]));
    const scale = Math.min(1500 / (right - left), 720 / (bottom - top + 60), 1);
    canvas.ds.scale = scale;
    canvas.ds.offset = [50 / scale - left + 30, 120 / scale - top];
    canvas.setDirty(true, true);
  })()`);
  await new Promise((next) => setTimeout(next, 3000));
  const { data } = await page.send("Page.captureScreenshot", { format: "png" });
  writeFileSync(picturePath, Buffer.from(data, "base64"));
  page.close();
} finally {
  clearTimeout(timer);
  chromium.kill();
  if (chromium.exitCode === null) await new Promise((ended) => chromium.once("exit", ended));
  // Its helpers may still be writing for a moment.
  rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 200 });
}
