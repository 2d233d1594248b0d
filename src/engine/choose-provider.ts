/** Which execution provider serves, by what the self-test says of each. */
import { type Logger, LunaError } from "../kernel/index.ts";
import { type DeviceChoice, PROVIDERS, type Provider, providerNamed } from "./providers.ts";
import type { SelfTestResult } from "./self-test.ts";

export type Tested = Readonly<{ provider: Provider; ms: number }>;

/** Seams for tests. */
export type SelfTest = Readonly<{
  compute: (provider: Provider) => Promise<SelfTestResult>;
  /** Throws DEVICE_UNAVAILABLE when a result is off. */
  check: (provider: Provider, actual: Float32Array, expected: Float32Array | undefined) => void;
}>;

/** Plain attention where the fused operator is what a provider gets wrong. */
function variantsOf(provider: Provider): Provider[] {
  const { choices } = provider;
  if (choices.attention === "plain") return [provider];
  return [provider, { ...provider, choices: { ...choices, attention: "plain" } }];
}

/** The provider with the first form of its operators that passes. Throws DEVICE_UNAVAILABLE. */
export async function testProvider(
  provider: Provider,
  test: SelfTest,
  expected: Float32Array | undefined,
): Promise<Tested & { output: Float32Array }> {
  let failure: LunaError | undefined;
  for (const variant of variantsOf(provider)) {
    try {
      const { output, ms } = await test.compute(variant);
      test.check(variant, output, expected);
      return { provider: variant, ms, output };
    } catch (error) {
      failure ??= LunaError.from(error);
      // A session that cannot be made at all will not be made in another form either.
      if (failure.code !== "DEVICE_UNAVAILABLE") break;
    }
  }
  // ONNX Runtime's texts end with or without a full stop.
  const reason = (failure?.message ?? "unknown reason").replace(/\.?\s*$/, ".");
  if (failure?.code === "DEVICE_UNAVAILABLE") throw failure;
  throw new LunaError(
    "DEVICE_UNAVAILABLE",
    `${provider.name} cannot be used: ${reason} ${provider.fix}`,
    { cause: failure },
  );
}

/**
 * `auto`: the first that passes and is not slower than the CPU in the self-test. A forced device:
 * that one, or DEVICE_UNAVAILABLE with the reason and what to do.
 */
export async function chooseProvider(
  device: DeviceChoice,
  test: SelfTest,
  logger: Logger,
): Promise<Tested> {
  const cpu = await testProvider(providerNamed("cpu"), test, undefined);
  if (device === "cpu") return cpu;
  const forced = device === "auto" ? undefined : providerNamed(device);
  const candidates = forced === undefined ? PROVIDERS : [forced];
  for (const candidate of candidates) {
    if (candidate.name === "cpu") continue;
    try {
      const tested = await testProvider(candidate, test, cpu.output);
      if (forced !== undefined || tested.ms <= cpu.ms) return tested;
      const [ms, cpuMs] = [tested.ms, cpu.ms];
      logger.info("device.slower-than-cpu", { device: candidate.name, ms, cpuMs });
    } catch (error) {
      if (forced !== undefined) throw error;
      const { message } = LunaError.from(error);
      logger.debug("device.unavailable", { device: candidate.name, message });
    }
  }
  return cpu;
}
