import { expect, test } from "vitest";
import { LunaError, SILENT_LOGGER } from "../kernel/index.ts";
import { chooseProvider, type SelfTest } from "./choose-provider.ts";
import type { Provider } from "./providers.ts";
import { checkResult } from "./self-test.ts";

const GOOD = Float32Array.of(1, 2, 3);
const BAD = Float32Array.of(1, 2, 4);
type Behaviour = (provider: Provider) => { output: Float32Array; ms: number };

/** A machine where each provider behaves as said; what is not named cannot be started. */
function machine(behaviours: Readonly<Record<string, Behaviour>>): SelfTest {
  return {
    compute: async (provider) => {
      const behaviour = behaviours[provider.name];
      if (behaviour === undefined) throw new LunaError("ENGINE_FAILED", "no library");
      return behaviour(provider);
    },
    check: (provider, actual, expected) => checkResult(provider, actual, expected ?? GOOD),
  };
}
const cpu: Behaviour = () => ({ output: GOOD, ms: 10 });
const choose = async (device: "auto" | "cpu" | "cuda" | "webgpu", test: SelfTest) => {
  const { provider } = await chooseProvider(device, test, SILENT_LOGGER);
  return `${provider.name} ${provider.choices.attention}`;
};

test("auto takes the first that works and is not slower than the CPU", async () => {
  const fast: Behaviour = () => ({ output: GOOD, ms: 1 });
  const slow: Behaviour = () => ({ output: GOOD, ms: 20 });
  expect(await choose("auto", machine({ cpu }))).toBe("cpu fused");
  expect(await choose("auto", machine({ cpu, cuda: fast, webgpu: fast }))).toBe("cuda fused");
  expect(await choose("auto", machine({ cpu, cuda: slow, webgpu: fast }))).toBe("webgpu plain");
  expect(await choose("auto", machine({ cpu, webgpu: slow }))).toBe("cpu fused");
  expect(await choose("webgpu", machine({ cpu, webgpu: slow }))).toBe("webgpu plain");
});

test("a wrong result leads to plain attention, and where that is wrong too, to refusal", async () => {
  const wrongFused: Behaviour = ({ choices }) => ({
    output: choices.attention === "fused" ? BAD : GOOD,
    ms: 1,
  });
  const wrong: Behaviour = () => ({ output: BAD, ms: 1 });
  expect(await choose("auto", machine({ cpu, cuda: wrongFused }))).toBe("cuda plain");
  expect(await choose("auto", machine({ cpu, cuda: wrong }))).toBe("cpu fused");
  await expect(choose("cuda", machine({ cpu, cuda: wrong }))).rejects.toMatchObject({
    code: "DEVICE_UNAVAILABLE",
    message: expect.stringContaining("wrong results"),
  });
});

test("a forced device that cannot start says why and what to do", async () => {
  await expect(choose("cuda", machine({ cpu }))).rejects.toMatchObject({
    code: "DEVICE_UNAVAILABLE",
    message: expect.stringMatching(
      /no library\. It needs .*ONNXRUNTIME_NODE_INSTALL=cuda12.*luna doctor/,
    ),
  });
  await expect(choose("cpu", machine({}))).rejects.toMatchObject({ code: "DEVICE_UNAVAILABLE" });
});
