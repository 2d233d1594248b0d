import { describe, expect, test, vi } from "vitest";
import { LunaError } from "../kernel/index.ts";
import { floatTensor, fromFloat } from "../tensor/index.ts";
import { ChildExited, type EngineChild, type Reply } from "./engine-child.ts";
import type { ChildOptions, Request, Tensors } from "./messages.ts";
import { fileKey, ReadyLoras } from "./ready-loras.ts";
import { SupervisedEngine } from "./supervised-engine.ts";

/** A child in memory; `answer` may throw ChildExited, which ends it. */
class FakeChild implements EngineChild {
  readonly pid: number;
  readonly chosen = { name: "cpu", attention: "fused" } as const;
  readonly facts = {
    ...{ rssBytes: 1, loraCache: { entries: 0, bytes: 0 } },
    overlays: { entries: 0, bytes: 0 },
    forgottenLoras: [],
  };
  readonly knownDigests = new Set<string>();
  readonly readyLoras = new ReadyLoras();
  readonly requests: Request[] = [];
  readonly exited: Promise<string>;
  exit: (reason: string) => void = () => undefined;
  readonly #answer: (request: Request, tensors?: Tensors) => Promise<Reply>;

  constructor(pid: number, answer: (request: Request, tensors?: Tensors) => Promise<Reply>) {
    this.pid = pid;
    this.#answer = answer;
    this.exited = new Promise((resolve) => {
      this.exit = resolve;
    });
  }

  async request(request: Request, tensors?: Tensors): Promise<Reply> {
    this.requests.push(request);
    try {
      return await this.#answer(request, tensors);
    } catch (error) {
      if (error instanceof ChildExited) this.exit(error.message);
      throw error;
    }
  }

  kill(reason: string): void {
    this.exit(reason);
  }

  async close(): Promise<void> {
    this.exit("closed");
  }
}

async function reply(request: Request): Promise<Reply> {
  const tensors = new Map();
  switch (request.type) {
    case "load":
      return { result: { type: "load", bytes: 10, ms: 1 }, tensors };
    case "run": {
      const outputs = request.items.map(() => ({ warnings: [] }));
      return { result: { type: "run", outputs, engineMs: 1 }, tensors };
    }
    default:
      return { result: { type: request.type }, tensors };
  }
}

type Answer = (request: Request, tensors?: Tensors) => Promise<Reply>;

/** An engine whose n-th process answers as `answers[n]` does, or normally. */
async function supervise(answers: readonly (Answer | undefined)[]) {
  const children: FakeChild[] = [];
  const options: ChildOptions[] = [];
  let nowMs = 0;
  const engine = new SupervisedEngine(
    {},
    {
      startChild: async (given) => {
        options.push(given);
        const child = new FakeChild(children.length + 1, answers[children.length] ?? reply);
        children.push(child);
        return child;
      },
      nowMs: () => nowMs,
    },
  );
  await engine.start();
  const advance = (ms: number) => {
    nowMs += ms;
  };
  return { engine, children, options, advance };
}

const item = { tensors: new Map(), loras: [] };
const crashOn =
  (type: Request["type"], path?: string, signal = "signal SIGSEGV"): Answer =>
  async (request) => {
    const isMeant = request.type === type && (path === undefined || "path" in request);
    if (isMeant && (path === undefined || ("path" in request && request.path === path))) {
      throw new ChildExited(signal);
    }
    return await reply(request);
  };

test("a crash in a run: a new process, everything loaded again, the run again", async () => {
  const { engine, children, options } = await supervise([crashOn("run")]);
  await engine.load("/a", "unet");
  await engine.load("/b", "clip-l");
  await engine.unload("/b");
  const { outputs } = await engine.run("/a", "unet", [item]);
  expect(outputs).toHaveLength(1);
  expect(children[1]?.requests.map(({ type }) => type)).toEqual(["load", "run"]);
  expect((await engine.info()).restarts).toBe(1);
  expect(options[1]?.chosen).toEqual({ name: "cpu", attention: "fused" });
});

test("a run that ends the process twice is refused from then on, the others go on", async () => {
  const deadly = crashOn("run", "/bad");
  const { engine, children } = await supervise([deadly, deadly]);
  await engine.load("/bad", "unet");
  await engine.load("/good", "unet");
  const bad = engine.run("/bad", "unet", [item]);
  const good = engine.run("/good", "unet", [item]);
  await expect(bad).rejects.toMatchObject({ code: "REQUEST_POISONED" });
  expect((await good).outputs).toHaveLength(1);
  expect(children).toHaveLength(3);
  await expect(engine.run("/bad", "unet", [item])).rejects.toMatchObject({
    code: "REQUEST_POISONED",
  });
  const other = { ...item, tensors: new Map([["x", fromFloat(floatTensor([1]))]]) };
  expect((await engine.run("/bad", "unet", [other])).outputs).toHaveLength(1);
  expect(children).toHaveLength(3);
});

test("of a batch that ends the process twice, one item alone decides which it was", async () => {
  const items = [1, 2, 3].map((value) => {
    const x = fromFloat(floatTensor([1], Float32Array.of(value)));
    return { tensors: new Map([["x", x]]), loras: [] };
  });
  // The second item is deadly.
  const deadly: Answer = async (request, tensors) => {
    const values = [...(tensors?.values() ?? [])].map(
      ({ bytes }) => new Float32Array(bytes.slice().buffer)[0],
    );
    if (request.type === "run" && values.includes(2)) throw new ChildExited("signal SIGSEGV");
    return await reply(request);
  };
  const { engine, children } = await supervise(new Array(20).fill(deadly));
  await engine.load("/a", "unet");
  await expect(engine.run("/a", "unet", items)).rejects.toMatchObject({ code: "ENGINE_CRASHED" });
  const codes: string[] = [];
  for (const one of items) {
    codes.push(
      await engine.run("/a", "unet", [one]).then(
        () => "done",
        (error) => LunaError.from(error).code,
      ),
    );
  }
  expect(codes).toEqual(["done", "REQUEST_POISONED", "done"]);
  expect(children).toHaveLength(4);
  await expect(engine.run("/a", "unet", items)).rejects.toMatchObject({ code: "REQUEST_POISONED" });
  expect(children).toHaveLength(4);
});

test("kills from outside are no fault of the run's, up to a point", async () => {
  const killed = crashOn("run", undefined, "signal SIGKILL");
  const { engine, children } = await supervise([killed, killed, killed]);
  await engine.load("/a", "unet");
  expect((await engine.run("/a", "unet", [item])).outputs).toHaveLength(1);
  expect(children).toHaveLength(4);
});

test("a process that does not answer is killed, and the run done again", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  try {
    let runs = 0;
    let hang: (error: unknown) => void = () => undefined;
    const answer: Answer = (request) => {
      if (request.type !== "run" || ++runs !== 2) return reply(request);
      return new Promise((_, reject) => {
        hang = reject;
      });
    };
    const { engine, children } = await supervise([answer]);
    await engine.load("/a", "unet");
    await engine.run("/a", "unet", [item]);
    void children[0]?.exited.then((reason) => hang(new ChildExited(reason)));
    const hung = engine.run("/a", "unet", [item]);
    await vi.advanceTimersByTimeAsync(29_000);
    expect(children).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(2_000);
    expect((await hung).outputs).toHaveLength(1);
    expect(children).toHaveLength(2);
  } finally {
    vi.useRealTimers();
  }
});

test.each(["info", "load"] as const)(
  "an idle process that does not answer %s is killed",
  async (type) => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      let hang: (error: unknown) => void = () => undefined;
      const silent: Answer = (request) =>
        request.type === type ? new Promise((_, reject) => (hang = reject)) : reply(request);
      // The second process is silent when it should load again, the first when it is asked.
      const answers = type === "info" ? [silent] : [crashOn("run"), silent];
      const { engine, children } = await supervise(answers);
      await engine.load("/a", "unet");
      if (type === "info") void engine.info();
      const run = engine.run("/a", "unet", [item]);
      await vi.advanceTimersByTimeAsync(0);
      void children.at(-1)?.exited.then((reason) => hang(new ChildExited(reason)));
      await vi.advanceTimersByTimeAsync(type === "info" ? 30_000 : 600_000);
      expect((await run).outputs).toHaveLength(1);
      expect(children).toHaveLength(type === "info" ? 2 : 3);
    } finally {
      vi.useRealTimers();
    }
  },
);

test("a file whose loading ends the process twice is refused from then on, a killed one is not", async () => {
  const deadly = crashOn("load", "/bad");
  const killed = crashOn("load", "/large", "signal SIGKILL");
  const answers = [deadly, deadly, killed, killed, killed, killed];
  const { engine, children, advance } = await supervise(answers);
  const code = (path: string) =>
    engine.load(path, "unet").then(
      () => "done",
      (error) => LunaError.from(error).code,
    );
  expect([await code("/bad"), await code("/bad")]).toEqual([
    "REQUEST_POISONED",
    "REQUEST_POISONED",
  ]);
  expect(children).toHaveLength(3);
  advance(60_000);
  expect([await code("/large"), await code("/large")]).toEqual(["ENGINE_CRASHED", "done"]);
});

test("a net whose loading ends the process is given up, and tried again when it is needed", async () => {
  const deadly = crashOn("load", "/bad");
  const { engine, children } = await supervise([crashOn("run"), deadly, deadly]);
  await engine.load("/bad", "unet");
  await engine.load("/good", "unet");
  expect((await engine.run("/good", "unet", [item])).outputs).toHaveLength(1);
  expect(children).toHaveLength(4);
  expect((await engine.info()).loaded.map(({ path }) => path)).toEqual(["/good"]);
  expect((await engine.run("/bad", "unet", [item])).outputs).toHaveLength(1);
  expect((await engine.info()).loaded.map(({ path }) => path)).toEqual(["/good", "/bad"]);
});

test("too many crashes in a minute end it for that minute", async () => {
  const { engine, children, advance } = await supervise(new Array(20).fill(crashOn("run")));
  await engine.load("/a", "unet");
  const codes: string[] = [];
  for (let i = 0; i < 4; i++) {
    const x = fromFloat(floatTensor([1], Float32Array.of(i)));
    const other = { ...item, tensors: new Map([["x", x]]) };
    const error = await engine.run("/a", "unet", [other]).catch((reason: unknown) => reason);
    codes.push(LunaError.from(error).message.includes("within 60 s") ? "capped" : "twice");
  }
  expect(codes).toEqual(["twice", "twice", "twice", "capped"]);
  expect(children).toHaveLength(6);
  advance(60_000);
  await engine.load("/a", "unet");
  expect(children).toHaveLength(7);
});

test("an idle crash is healed at once", async () => {
  const { engine, children } = await supervise([]);
  await engine.load("/a", "unet");
  children[0]?.exit("signal SIGKILL");
  await expect.poll(() => children[1]?.requests.map(({ type }) => type)).toEqual(["load"]);
});

test("factors are sent once to a process, and again when it has forgotten them", async () => {
  let isForgotten = false;
  const sizes: (number | undefined)[] = [];
  const answer: Answer = async (request, tensors) => {
    if (request.type !== "run") return await reply(request);
    sizes.push(tensors?.size);
    if (isForgotten && request.factors.length === 0) {
      isForgotten = false;
      throw new LunaError("TENSOR_UNKNOWN", "forgotten");
    }
    return await reply(request);
  };
  const { engine } = await supervise([answer]);
  await engine.load("/a", "unet");
  const tensors = new Map([["l.up", fromFloat({ shape: [1], data: new Float32Array(1) })]]);
  const loras = [{ source: { type: "factors", digest: "d", tensors }, strength: 1 } as const];
  const run = () => engine.run("/a", "unet", [{ tensors: new Map(), loras }]);
  await run();
  await run();
  isForgotten = true;
  await run();
  expect(sizes).toEqual([1, 0, 0, 1]);
});

test("what comes after close is refused, what waits too", async () => {
  let finish = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const { engine, children } = await supervise([
    async (request) => {
      if (request.type === "run") await gate;
      return await reply(request);
    },
  ]);
  await engine.load("/a", "unet");
  const running = engine.run("/a", "unet", [item]);
  const waiting = engine.run("/a", "unet", [item]);
  await expect.poll(() => children[0]?.requests).toHaveLength(2);
  const closed = engine.close();
  finish();
  expect((await running).outputs).toHaveLength(1);
  await expect(waiting).rejects.toMatchObject({ code: "SHUTTING_DOWN" });
  await closed;
  await expect(engine.load("/a", "unet")).rejects.toMatchObject({ code: "SHUTTING_DOWN" });
});

test("a device that takes the process down while it is tried leaves the CPU to serve", async () => {
  const tried: string[] = [];
  const engine = new SupervisedEngine(
    { device: "auto" },
    {
      startChild: async ({ device }) => {
        tried.push(device);
        if (device === "auto") throw new LunaError("ENGINE_CRASHED", "signal SIGSEGV");
        return new FakeChild(1, reply);
      },
      nowMs: () => 0,
    },
  );
  await engine.start();
  expect(tried).toEqual(["auto", "cpu"]);
});

describe("adapter files read ahead", () => {
  const source = { type: "file", path: "/l", name: "l", key: "1" } as const;
  const loras = [{ source, strength: 1 }];

  test("runs go on meanwhile; a file is asked for once, until the process drops it", async () => {
    const { engine, children } = await supervise([undefined]);
    await engine.load("/a", "unet");
    let ended = 0;
    const first = engine.prepare("/a", "unet", loras).then(() => ended++);
    const second = engine.prepare("/a", "unet", loras).then(() => ended++);
    await engine.run("/a", "unet", [item]);
    await engine.run("/a", "unet", [item]);
    expect(ended).toBe(0);
    const [child] = children;
    child?.readyLoras.settle(fileKey(source), "/a");
    await Promise.all([first, second]);
    await engine.prepare("/a", "unet", loras);
    const asked = () => child?.requests.filter(({ type }) => type === "prepare").length;
    expect(asked()).toBe(1);
    child?.readyLoras.forget([fileKey(source)]);
    const again = engine.prepare("/a", "unet", loras);
    await engine.run("/a", "unet", [item]);
    expect(asked()).toBe(2);
    child?.readyLoras.settle(fileKey(source), "/a");
    await again;
  });

  test("what is wrong with a file is heard before it disturbs a batch", async () => {
    const { engine, children } = await supervise([undefined]);
    await engine.load("/a", "unet");
    const waiting = engine.prepare("/a", "unet", loras);
    const error = new LunaError("LORA_MALFORMED", "bad");
    children[0]?.readyLoras.settle(fileKey(source), "/a", error);
    await expect(waiting).rejects.toBe(error);
  });

  test("a process that ends, or cannot be asked, is left to the run", async () => {
    const { engine, children } = await supervise([
      crashOn("prepare"),
      crashOn("prepare"),
      undefined,
    ]);
    await engine.load("/a", "unet");
    await engine.prepare("/a", "unet", loras);
    await engine.run("/a", "unet", [item]);
    const waiting = engine.prepare("/a", "unet", loras);
    await engine.run("/a", "unet", [item]);
    children.at(-1)?.readyLoras.close();
    await waiting;
  });
});
