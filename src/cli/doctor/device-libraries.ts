/** Which system libraries a device needs, and which of them this machine lacks. */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type { Finding } from "./finding.ts";

/** What ONNX Runtime 1.30's providers open when they start. */
const LIBRARIES = {
  cuda: [
    ["libcuda.so.1", "NVIDIA's driver"],
    ["libcudart.so.12", "CUDA 12"],
    ["libcublasLt.so.12", "CUDA 12"],
    ["libcublas.so.12", "CUDA 12"],
    ["libcufft.so.11", "CUDA 12"],
    ["libcurand.so.10", "CUDA 12"],
    ["libcudnn.so.9", "cuDNN 9"],
  ],
  webgpu: [["libvulkan.so.1", "the Vulkan loader (package libvulkan1)"]],
} as const;

/** Those that are not in the list that `ldconfig -p` prints. */
export function missingLibraries(device: keyof typeof LIBRARIES, ldconfig: string): string[] {
  const known = new Set([...ldconfig.matchAll(/^\s*(\S+\.so\S*)\s/gm)].map(([, name]) => name));
  return LIBRARIES[device]
    .filter(([name]) => !known.has(name))
    .map(([name, from]) => `${name} of ${from}`);
}

/** CUDA's kernels are a download of their own. */
function hasCudaProvider(): boolean {
  const root = dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
  const file = "libonnxruntime_providers_cuda.so";
  return existsSync(join(root, "bin/napi-v6", process.platform, process.arch, file));
}

/** `device` as the configuration asks for it. Nothing is said of the CPU, which needs nothing. */
export function checkLibraries(device: string): Finding[] {
  if (process.platform !== "linux" || device === "cpu") return [];
  let ldconfig: string;
  try {
    ldconfig = execFileSync("/sbin/ldconfig", ["-p"], { encoding: "utf8" });
  } catch {
    return [];
  }
  const wanted = (["cuda", "webgpu"] as const).filter(
    (name) => device === name || device === "auto",
  );
  return wanted.map((name): Finding => {
    const missing = missingLibraries(name, ldconfig);
    if (name === "cuda" && !hasCudaProvider()) missing.unshift("ONNX Runtime's CUDA kernels");
    const check = `${name} files`;
    if (missing.length === 0) return { check, state: "ok", fact: "All are there." };
    return {
      check,
      state: device === name ? "problem" : "advice",
      fact: `Missing: ${missing.join(", ")}.`,
      todo:
        name === "cuda"
          ? "Install them for an NVIDIA GPU; the kernels come with ONNXRUNTIME_NODE_INSTALL=cuda12 npm rebuild onnxruntime-node. Libraries of a virtual environment need LD_LIBRARY_PATH."
          : "Install it, and the GPU's Vulkan driver.",
    };
  });
}
