import type { LoraRef } from "./types.ts";

/** An ordered list of LoRAs that a proxy may change, as ComfyUI's nodes expect, and copy. */
export class LoraStack {
  #loras: readonly LoraRef[];

  constructor(loras: readonly LoraRef[] = []) {
    this.#loras = loras;
  }

  get loras(): readonly LoraRef[] {
    return this.#loras;
  }

  add(lora: LoraRef): void {
    this.#loras = [...this.#loras, lora];
  }

  clear(): void {
    this.#loras = [];
  }
}
