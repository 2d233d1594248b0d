/** Progress bars on a terminal, one line each, redrawn in place; a plain line now and then elsewhere. */
export class ProgressBars {
  private readonly states = new Map<string, { value: number; max: number; text: string }>();
  private readonly output: NodeJS.WriteStream;
  private drawnLines = 0;
  private lastPercent = new Map<string, number>();

  constructor(names: readonly string[], output: NodeJS.WriteStream = process.stderr) {
    this.output = output;
    for (const name of names) this.states.set(name, { value: 0, max: 1, text: "starting" });
  }

  update(name: string, value: number, max: number, text = ""): void {
    this.states.set(name, { value, max: Math.max(1, max), text });
    if (this.output.isTTY) this.draw();
    else this.writeLine(name);
  }

  /** Leaves the last state on the screen. */
  close(): void {
    if (this.output.isTTY) this.draw();
    this.drawnLines = 0;
  }

  private draw(): void {
    const width = Math.max(...[...this.states.keys()].map((name) => name.length));
    const lines = [...this.states].map(([name, state]) => {
      const share = Math.min(1, state.value / state.max);
      const filled = Math.round(share * 30);
      const bar = `${"█".repeat(filled)}${"░".repeat(30 - filled)}`;
      const percent = `${Math.round(share * 100)}%`.padStart(4);
      return `\u001b[2K${name.padEnd(width)} ${bar} ${percent} ${state.text}`;
    });
    const up = this.drawnLines > 0 ? `\u001b[${this.drawnLines}A` : "";
    this.output.write(`${up}${lines.join("\n")}\n`);
    this.drawnLines = lines.length;
  }

  private writeLine(name: string): void {
    const state = this.states.get(name);
    if (state === undefined) return;
    const percent = Math.floor((state.value / state.max) * 4) * 25;
    if (this.lastPercent.get(name) === percent) return;
    this.lastPercent.set(name, percent);
    this.output.write(`${name}: ${percent}% ${state.text}\n`);
  }
}
