/** A process that owns an engine and is killed: run by test/e2e/engine.test.ts. */
import { startEngine } from "../../src/engine/index.ts";

const engine = await startEngine({ device: "cpu", threads: 1 });
console.log((await engine.info()).pid);
