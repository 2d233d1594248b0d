type Fields = Readonly<Record<string, unknown>>;

/** Console lines for people, in the words of the project's origin, made from log events. */
const LINES: Readonly<Record<string, (fields: Fields) => string>> = {
  "lora.applied": ({ lora, strength }) =>
    `[ModelRegistry] Applied LoRA '${lora}' (strength=${strength}); the base weights were not touched`,
  "engine.started": ({ device, pid }) => `[LunaServer] Engine on ${device} (pid ${pid})`,
};

/** The line of an event, or undefined for events that are only logged. */
export function seedLine(event: string, fields: Fields = {}): string | undefined {
  return Object.hasOwn(LINES, event) ? LINES[event]?.(fields) : undefined;
}
