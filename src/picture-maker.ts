/**
 * The pictures of the dashboard's "try it": a workflow run by this package's own runner, as a
 * session of the daemon like any other. Loaded when the first picture is asked for.
 */
import { openCorePeer } from "./core-peer.ts";
import { createPreviewer, InstanceServices, ModelClients } from "./instance/index.ts";
import type { Config } from "./kernel/index.ts";
import { ASSETS, modelFoldersOf } from "./model-paths.ts";
import { NODE_DEFINITIONS } from "./nodes/index.ts";
import { packagedTokenizer } from "./packaged-tokenizer.ts";
import { ModelFiles } from "./registry/index.ts";
import type { DaemonCore, TryIt, TryRequest } from "./server/index.ts";
import { VERSION } from "./version.ts";
import { createWorkflowRunner } from "./workflow/index.ts";

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");

/** One session serves all modes: the workflow never looks for another daemon. */
class SessionClients extends ModelClients {
  override open(): ReturnType<ModelClients["open"]> {
    return super.open("force_local");
  }
}

/** Pictures go to the page, not to a folder. */
class PictureServices extends InstanceServices {
  readonly pictures: Uint8Array[] = [];

  override async listOutputs(): Promise<readonly string[]> {
    return [];
  }

  override async writeOutput(_file: unknown, bytes: Uint8Array): Promise<boolean> {
    this.pictures.push(bytes);
    return true;
  }
}

export function createPictureMaker(core: DaemonCore, config: Config): TryIt {
  const files = new ModelFiles(modelFoldersOf(config), () => performance.now());
  const tokenizer = packagedTokenizer();
  return async (request, { grant, signal, onEvent }) => {
    const client = { name: request.name, version: VERSION };
    const clients = new SessionClients({ client, local: () => openCorePeer(core, client, grant) });
    const log = (line: string) => onEvent({ type: "log", line });
    const folders = { input: ASSETS, output: ASSETS, temp: ASSETS };
    const address = "this daemon";
    const services = new PictureServices({ clients, files, folders, tokenizer, address, log });
    const preview = createPreviewer("latent2rgb", services);
    try {
      const runner = createWorkflowRunner({ definitions: NODE_DEFINITIONS, services });
      await runner.run(workflowOf(request), {
        signal,
        onEvent: (event) => {
          if (event.type !== "progress") return;
          const png = event.preview && preview(event.preview);
          const { value: step, max: steps } = event;
          onEvent({ type: "progress", step, steps, ...(png ? { png: base64(png) } : {}) });
        },
      });
      for (const png of services.pictures) onEvent({ type: "picture", png: base64(png) });
    } finally {
      await clients.close();
    }
  };
}

/** Text to picture in ComfyUI's API format; each LoRA is a loader of its own in the chain. */
function workflowOf(request: TryRequest): string {
  const { model, prompt, negative, seed, steps, cfg, width, height, loras } = request;
  const node = (class_type: string, inputs: object) => ({ class_type, inputs });
  const chain = loras.map(({ name, strength }, index) => {
    const before = index === 0 ? "file" : `lora${index - 1}`;
    const strengths = { strength_model: strength, strength_clip: strength };
    const inputs = { lora_name: name, ...strengths, model: [before, 0], clip: [before, 1] };
    return [`lora${index}`, node("LoraLoader", inputs)] as const;
  });
  const last = chain.at(-1)?.[0] ?? "file";
  return JSON.stringify({
    file: node("CheckpointLoaderSimple", { ckpt_name: model }),
    ...Object.fromEntries(chain),
    positive: node("CLIPTextEncode", { text: prompt, clip: [last, 1] }),
    negative: node("CLIPTextEncode", { text: negative, clip: [last, 1] }),
    latent: node("EmptyLatentImage", { width, height, batch_size: 1 }),
    sampler: node("KSampler", {
      ...{ model: [last, 0], positive: ["positive", 0], negative: ["negative", 0] },
      ...{ latent_image: ["latent", 0], seed, steps, cfg, denoise: 1 },
      ...{ sampler_name: "euler", scheduler: "normal" },
    }),
    decode: node("VAEDecode", { samples: ["sampler", 0], vae: ["file", 2] }),
    preview: node("PreviewImage", { images: ["decode", 0] }),
  });
}
