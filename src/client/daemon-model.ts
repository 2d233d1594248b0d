import { LunaError } from "../kernel/index.ts";
import type { ControlSpec } from "../protocol/index.ts";
import { type FloatTensor, fromFloat, type Tensor, toFloat } from "../tensor/index.ts";
import { LoraStack } from "./lora-stack.ts";
import { type LunaLink, loraSpecs } from "./luna-link.ts";
import type { StepTiming } from "./step-log.ts";
import type {
  CallOptions,
  Control,
  ControlInput,
  LoraRef,
  ModelInfo,
  UNetFeatures,
  UNetInputs,
  UNetModel,
} from "./types.ts";

/** What a proxy asks of each of its steps. */
type Changes = Readonly<{ loras?: readonly LoraRef[]; features?: UNetFeatures }>;

/**
 * The UNet of a served checkpoint. It holds no weights: each `forward` is one request. The seed
 * calls it like a function, `model(latents, timestep, context)`; here that is `forward`.
 */
export class DaemonModel implements UNetModel {
  readonly info: ModelInfo;
  readonly features: UNetFeatures;
  readonly #link: LunaLink;
  readonly #stack: LoraStack;

  constructor(link: LunaLink, info: ModelInfo, { loras, features = {} }: Changes = {}) {
    this.#link = link;
    this.info = info;
    this.features = features;
    this.#stack = new LoraStack(loras);
  }

  get loras(): readonly LoraRef[] {
    return this.#stack.loras;
  }

  /** The seed's `lora_stack`: the same as `loras`. */
  get loraStack(): readonly LoraRef[] {
    return this.#stack.loras;
  }

  /** The seed's `model.model`: code that unwraps a ModelPatcher gets this proxy again. */
  get model(): this {
    return this;
  }

  /** The latest steps of this client, all of its models together. */
  get steps(): readonly StepTiming[] {
    return this.#link.steps.steps;
  }

  /**
   * One pass through the net: eps or v, as the weights give it, [b, outChannels, h, w]. Context, y
   * and control are remembered by identity: do not change their arrays afterwards.
   */
  async forward(inputs: UNetInputs, options?: CallOptions): Promise<FloatTensor> {
    const { x, timesteps, context, y, control, controls = [] } = inputs;
    const times = Float32Array.from(timesteps);
    const own = new Map<string, Tensor>([
      ["x", fromFloat(x)],
      ["timesteps", fromFloat({ shape: [times.length], data: times })],
    ]);
    const shared = new Map<string, FloatTensor>([["context", context]]);
    if (y) shared.set("y", y);
    for (const [slot, tensor] of controlSlots(control)) shared.set(slot, tensor);
    for (const [index, { hint }] of controls.entries()) shared.set(`hint.${index}`, hint);
    const loras = loraSpecs(this.loras, "strengthModel");
    const startedAtMs = performance.now();
    const { tensors, timings } = await this.#link.run(
      {
        ...{ op: "model_forward", model: this.info.id, loras },
        ...this.#features(),
        ...(controls.length > 0 && { controls: controls.map(controlSpec) }),
      },
      { own, shared },
      options,
    );
    const out = takeTensor(tensors, "out");
    if (timings) {
      this.#link.steps.add(performance.now() - startedAtMs, timings, this.loras);
    }
    return out;
  }

  /** The seed's `add_lora`: changes this proxy's stack and nothing else. */
  addLora(name: string, strengthModel: number, strengthClip = 0): void {
    this.#stack.add({ name, strengthModel, strengthClip });
    const strength = `model_str=${strengthModel}`;
    this.#link.say(
      `[DaemonModel] Added LoRA '${name}' (${strength}), stack size: ${this.loras.length}`,
    );
  }

  /** The seed's `clear_loras`. */
  clearLoras(): void {
    this.#stack.clear();
  }

  withLora(lora: LoraRef): DaemonModel {
    return this.#changed({ loras: [...this.loras, lora] });
  }

  withFeatures(features: UNetFeatures): DaemonModel {
    return this.#changed({ features: { ...this.features, ...features } });
  }

  /** An independent proxy with the same stack and features, as ModelPatcher.clone. */
  clone(): DaemonModel {
    return this.#changed({});
  }

  /** The seed's `patch_model`: nothing to do, LoRAs are inputs and not changes of weights. */
  patchModel(): this {
    return this;
  }

  /** The seed's `unpatch_model`: nothing to do, the base was not touched. */
  unpatchModel(): this {
    return this;
  }

  /** The seed's `model_dtype`: the type of the stored weights, such as "F16". */
  modelDtype(): string {
    return this.info.dtype;
  }

  #changed(changes: Changes): DaemonModel {
    const { loras, features } = this;
    return new DaemonModel(this.#link, this.info, { loras, features, ...changes });
  }

  /** A step that asks for nothing shares its run with those that do not know of features. */
  #features(): Readonly<{ features?: UNetFeatures }> {
    return Object.keys(this.features).length > 0 ? { features: this.features } : {};
  }
}

function controlSpec({ model, strength, type, rows }: ControlInput): ControlSpec {
  return {
    ...{ model, strength },
    ...(type !== undefined && { type }),
    ...(rows && { rows: [...rows] }),
  };
}

function* controlSlots(control: Control | undefined): Generator<[string, FloatTensor]> {
  if (!control) return;
  for (const part of ["input", "middle", "output"] as const) {
    for (const [index, tensor] of control[part].entries()) {
      if (tensor) yield [`control.${part}.${index}`, tensor];
    }
  }
}

/** A tensor an answer must have, as float32. */
export function takeTensor(tensors: ReadonlyMap<string, Tensor>, name: string): FloatTensor {
  const tensor = tensors.get(name);
  if (tensor) return toFloat(tensor);
  throw new LunaError("FRAME_MALFORMED", `The daemon's answer has no tensor "${name}".`);
}
