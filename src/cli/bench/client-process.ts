/** A client in a process of its own, for `luna bench clients`: a few steps, a line, then it stays. */
import { openModels } from "../../client/index.ts";
import { VERSION } from "../../version.ts";
import { timeSteps } from "./bed.ts";

const [url = "", name = ""] = process.argv.slice(2);
const identity = { name: "bench client", version: VERSION };
const client = await openModels({ mode: "force_daemon", url, client: identity });
const { model } = await client.registerModelByPath({ name });
if (model) await timeSteps(model, { side: 16, rows: 2 }, { count: 50 });
process.stdout.write("ready\n");
process.stdin.on("end", () => process.exit(0)).resume();
