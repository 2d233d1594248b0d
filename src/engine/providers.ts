/** The execution providers: how graphs are written for each, and how sessions are made. */
import assert from "node:assert/strict";
import type { OpChoices } from "../graph/index.ts";
import type { InferenceSession } from "./runtime.ts";

export const DEVICE_CHOICES = ["auto", "cpu", "cuda", "webgpu"] as const;
export type DeviceChoice = (typeof DEVICE_CHOICES)[number];
export type ProviderName = Exclude<DeviceChoice, "auto">;

export type Provider = Readonly<{
  name: ProviderName;
  /** ONNX Runtime's own name. */
  title: string;
  choices: OpChoices;
  /** Largest relative L2 error of the self-test that counts as working. */
  errorMax: number;
  sessionOptions: InferenceSession.SessionOptions;
  /** What to do when it cannot be used. */
  fix: string;
}>;

/**
 * `extended` fuses operators and leaves weights where they are: `all` would copy them into other
 * layouts. Level 3 logs errors only; ours are reported anyway.
 */
const COMMON: InferenceSession.SessionOptions = {
  graphOptimizationLevel: "extended",
  logSeverityLevel: 3,
};

/** In the order in which `auto` prefers them. */
export const PROVIDERS: readonly Provider[] = [
  {
    name: "cuda",
    title: "CUDAExecutionProvider",
    choices: { attention: "fused", compute: "float16", rankMin: 0 },
    errorMax: 2e-2,
    sessionOptions: { ...COMMON, executionProviders: ["cuda"] },
    fix: "It needs an NVIDIA driver, CUDA 12 with cuDNN 9, and ONNX Runtime's CUDA libraries, which are not installed by default: ONNXRUNTIME_NODE_INSTALL=cuda12 npm rebuild onnxruntime-node (Linux x64). npx luna doctor --device cuda lists what is missing.",
  },
  {
    name: "webgpu",
    title: "WebGpuExecutionProvider",
    // Fused attention was off by a tenth, and empty inputs ended the process, in ONNX Runtime 1.30.
    choices: { attention: "plain", compute: "float32", rankMin: 1 },
    errorMax: 1e-3,
    sessionOptions: { ...COMMON, executionProviders: ["webgpu"] },
    fix: "It needs a graphics driver with Vulkan (Linux), Metal (macOS) or Direct3D 12 (Windows). npx luna doctor --device webgpu lists what is missing.",
  },
  {
    name: "cpu",
    title: "CPUExecutionProvider",
    choices: { attention: "fused", compute: "float32", rankMin: 0 },
    errorMax: 1e-4,
    // Threads that wait for the next run stop turning: the daemon and its clients need the cores.
    sessionOptions: {
      ...{ ...COMMON, executionProviders: ["cpu"] },
      extra: { session: { force_spinning_stop: "1" } },
    },
    fix: "Reinstall with npm ci; ONNX Runtime needs a 64-bit processor and, on Linux, glibc 2.28 or later.",
  },
];

export function providerNamed(name: ProviderName): Provider {
  const provider = PROVIDERS.find((candidate) => candidate.name === name);
  assert(provider !== undefined, "The table has every name.");
  return provider;
}
