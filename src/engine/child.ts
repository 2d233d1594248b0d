/**
 * The engine process. File descriptor 3 carries frames to and from the daemon; stderr carries log
 * lines. It ends when the pipe closes, so a daemon that dies leaves no engine behind.
 */
import { Socket } from "node:net";
import { createLogger, LunaError } from "../kernel/index.ts";
import { chooseProvider, type SelfTest } from "./choose-provider.ts";
import { encodeFramePrefix, FrameReader } from "./frame-reader.ts";
import { startLoraReader } from "./lora-reader.ts";
import {
  type ChildMessage,
  type ChildOptions,
  type Chosen,
  decodeItems,
  decodeMessage,
  encodeError,
  encodeMessage,
  encodeOutputs,
  type ParentMessage,
  PIPE_VERSION,
  type Request,
  type Result,
  type Tensors,
} from "./messages.ts";
import { OnnxEngine } from "./onnx-engine.ts";
import { type Provider, providerNamed } from "./providers.ts";
import { type FileSource, fileKey } from "./ready-loras.ts";
import { type Runtime, shortened } from "./runtime.ts";
import { checkResult, computeSelfTest } from "./self-test.ts";

const logger = createLogger((line) => process.stderr.write(`${line}\n`), "debug");
const pipe = new Socket({ fd: 3, readable: true, writable: true });
const reader = new FrameReader();
let engine: OnnxEngine | undefined;
let tail: Promise<void> = Promise.resolve();

// Ctrl-C reaches the whole group: the daemon decides when its engine ends.
process.on("SIGINT", () => undefined);
process.on("SIGTERM", () => undefined);
pipe.on("end", () => process.exit(0));
pipe.on("error", () => process.exit(0));
pipe.on("data", (chunk: Uint8Array) => {
  for (const frame of reader.push(chunk)) {
    tail = tail.then(() => receive(frame));
  }
});

function send(message: ChildMessage, tensors?: Tensors): void {
  const parts = encodeMessage(message, tensors);
  pipe.cork();
  pipe.write(encodeFramePrefix(parts.reduce((sum, part) => sum + part.byteLength, 0)));
  for (const part of parts) pipe.write(part);
  pipe.uncork();
}

async function receive(frame: Uint8Array): Promise<void> {
  const { message, tensors } = decodeMessage<ParentMessage>(frame);
  if (message.type === "start") {
    await start(message.version, message.options);
    return;
  }
  const { id, request } = message;
  if (engine === undefined) throw new Error("The first message is the start.");
  try {
    const { result, tensors: outputs } = await answer(engine, request, tensors);
    send({ type: "done", id, result, facts: engine.facts }, outputs);
  } catch (cause) {
    const error = LunaError.from(cause);
    if (error.code === "INTERNAL") logger.error("engine.bug", { stack: (cause as Error).stack });
    send({ type: "error", id, error: encodeError(error), facts: engine.facts });
  }
}

async function answer(
  target: OnnxEngine,
  request: Request,
  tensors: Tensors,
): Promise<{ result: Result; tensors?: Tensors }> {
  switch (request.type) {
    case "load": {
      const loaded = await target.load(request.path, request.component);
      return { result: { type: "load", ...loaded } };
    }
    case "unload":
      await target.unload(request.path, request.component);
      return { result: { type: "unload" } };
    case "run": {
      const items = decodeItems(request, tensors, {
        factors: target.loras,
        shared: target.sharedTensors,
      });
      const { outputs, engineMs } = await target.run(request.path, request.component, items);
      const warnings = outputs.map((output) => ({ warnings: output.warnings }));
      return {
        result: { type: "run", outputs: warnings, engineMs },
        tensors: encodeOutputs(outputs),
      };
    }
    case "prepare":
      for (const source of request.sources) prepare(target, request, source);
      return { result: { type: "prepare" } };
    case "info":
      return { result: { type: "info" } };
  }
}

function prepare(
  target: OnnxEngine,
  { path, component }: Extract<Request, { type: "prepare" }>,
  source: FileSource,
): void {
  const told = { type: "prepared", file: fileKey(source), path } as const;
  target.prepare(path, component, source).then(
    () => send(told),
    (cause: unknown) => send({ ...told, error: encodeError(LunaError.from(cause)) }),
  );
}

async function start(version: number, options: ChildOptions): Promise<void> {
  try {
    if (version !== PIPE_VERSION) {
      throw new LunaError(
        "PROTOCOL_VERSION",
        `The daemon speaks version ${version}, the engine ${PIPE_VERSION}.`,
      );
    }
    const { threads, loraCacheBytesMax, memoryBytesMax } = options;
    const runtime = await importRuntime();
    const found = await findProvider(runtime, options);
    const provider = onDevice(found, options.deviceIndex);
    const limits = {
      loraCacheBytesMax,
      ...(memoryBytesMax === undefined ? {} : { memoryBytesMax }),
      ...(threads === undefined ? {} : { threads }),
    };
    engine = new OnnxEngine({
      runtime,
      provider,
      logger,
      loraReader: startLoraReader(),
      ...limits,
    });
    const chosen = { name: provider.name, attention: provider.choices.attention };
    send({ type: "ready", version: PIPE_VERSION, chosen });
  } catch (error) {
    send({ type: "failed", error: encodeError(LunaError.from(error)) });
    process.exitCode = 1;
    pipe.end();
  }
}

async function findProvider(runtime: Runtime, options: ChildOptions): Promise<Provider> {
  const { device, chosen } = options;
  if (chosen !== undefined) return chosenProvider(chosen);
  const test: SelfTest = {
    compute: (provider) => computeSelfTest(runtime, provider),
    check: checkResult,
  };
  const { provider, ms } = await chooseProvider(device, test, logger);
  const { name, choices } = provider;
  logger.info("device.chosen", { device: name, asked: device, selfTestMs: ms, ...choices });
  return provider;
}

/** CUDA alone knows several devices. */
function onDevice(provider: Provider, deviceId: number | undefined): Provider {
  if (deviceId === undefined || provider.name !== "cuda") return provider;
  const executionProviders = [{ name: "cuda", deviceId }];
  return { ...provider, sessionOptions: { ...provider.sessionOptions, executionProviders } };
}

function chosenProvider({ name, attention }: Chosen): Provider {
  const provider = providerNamed(name);
  return { ...provider, choices: { ...provider.choices, attention } };
}

/** The binding is native code and may be missing or not fit the system. */
async function importRuntime(): Promise<Runtime> {
  try {
    return await import("onnxruntime-node");
  } catch (cause) {
    throw new LunaError(
      "DEVICE_UNAVAILABLE",
      `ONNX Runtime cannot be loaded: ${shortened(cause)} ${providerNamed("cpu").fix}`,
      { cause },
    );
  }
}
