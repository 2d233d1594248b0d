/**
 * Memory for adapter files that has been touched ahead of its use. Fresh memory is what a first use waits
 * for most: the system maps and clears it page by page, 0.5 to 3 ms a MB in a virtual machine.
 */
import { type PieceSource, rawPiece } from "../lora/index.ts";
import { SPARE_PIECES, SPARE_PIECES_DELAY_MS } from "./limits.ts";

export class SparePieces {
  readonly #ready: Float32Array[] = [];
  #timer: NodeJS.Timeout | undefined;

  /** One that is ready, else a fresh one. */
  readonly take: PieceSource = () => this.#ready.pop() ?? rawPiece();

  /** Makes all ready in a moment when nothing waits for this thread, a few ms at a time. */
  refill(): void {
    if (this.#ready.length >= SPARE_PIECES || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#ready.push(rawPiece().fill(0));
      this.refill();
    }, SPARE_PIECES_DELAY_MS).unref();
  }

  /** Nothing is made while a file is read. */
  pause(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
