/**
 * Memory for adapter files that has been touched ahead of its use. Fresh memory is what a first use waits
 * for most: the system maps and clears it page by page, 0.5 to 3 ms a MB in a virtual machine.
 */
import { type PieceSource, rawPiece } from "../lora/index.ts";
import { SPARE_PIECES_DELAY_MS, SPARE_PIECES_MAX } from "./limits.ts";

export class SparePieces {
  readonly #ready: Float32Array[] = [];
  #timer: NodeJS.Timeout | undefined;
  #taken = 0;
  /** As many as the largest file so far took: who uses small ones, or none, keeps nothing ready. */
  #wanted = 0;

  /** One that is ready, else a fresh one. */
  readonly take: PieceSource = () => {
    this.#taken++;
    return this.#ready.pop() ?? rawPiece();
  };

  /** A file is read: nothing is made meanwhile. */
  begin(): void {
    this.#taken = 0;
    clearTimeout(this.#timer);
  }

  /** The file has been read: what the next may need is made, a few ms at a time. */
  end(): void {
    this.#wanted = Math.min(Math.max(this.#wanted, this.#taken), SPARE_PIECES_MAX);
    this.#refill();
  }

  #refill(): void {
    if (this.#ready.length >= this.#wanted) return;
    this.#timer = setTimeout(() => {
      this.#ready.push(rawPiece().fill(0));
      this.#refill();
    }, SPARE_PIECES_DELAY_MS).unref();
  }
}
