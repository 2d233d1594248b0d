import font from "oled-font-5x7";
import { PNG } from "pngjs";

/** One picture of the sheet: PNG bytes and the lines of text below it. */
export type SheetCell = Readonly<{ png: Buffer; caption: readonly string[] }>;

type Canvas = { width: number; height: number; data: Uint8Array };

const MARGIN = 12;
const CELL_WIDTH = 256;
const LETTER_WIDTH = font.width + 1;
const LINE_HEIGHT = font.height + 4;
const CAPTION_LINES = 4;
const LETTERS_A_LINE = Math.floor(CELL_WIDTH / LETTER_WIDTH);
const INK = 40;
const GLYPHS = new Map(
  font.lookup.map((letter, index) => [
    letter,
    font.fontData.slice(index * font.width, (index + 1) * font.width),
  ]),
);

function fillRectangle(canvas: Canvas, left: number, top: number, size: [number, number]): void {
  for (let y = top; y < top + size[1]; y++) {
    const begin = (y * canvas.width + left) * 4;
    canvas.data.fill(255, begin, begin + size[0] * 4);
  }
}

/** Columns of the font are bytes, the lowest bit at the top. Unknown letters become "?". */
function drawText(canvas: Canvas, left: number, top: number, text: string): void {
  [...text].slice(0, LETTERS_A_LINE).forEach((letter, index) => {
    const columns = GLYPHS.get(letter) ?? GLYPHS.get("?") ?? [];
    columns.forEach((column, x) => {
      for (let y = 0; y < font.height; y++) {
        if (((column >> y) & 1) === 0) continue;
        const at = ((top + y) * canvas.width + left + index * LETTER_WIDTH + x) * 4;
        canvas.data.fill(INK, at, at + 3);
      }
    });
  });
}

/** Draws a picture into a square of CELL_WIDTH, nearest pixel, its proportions kept. */
function drawPicture(canvas: Canvas, left: number, top: number, picture: Canvas): void {
  const scale = CELL_WIDTH / Math.max(picture.width, picture.height);
  const width = Math.round(picture.width * scale);
  const height = Math.round(picture.height * scale);
  for (let y = 0; y < height; y++) {
    const sourceRow = Math.floor(y / scale) * picture.width;
    for (let x = 0; x < width; x++) {
      const from = (sourceRow + Math.floor(x / scale)) * 4;
      const to = ((top + y) * canvas.width + left + x) * 4;
      for (let channel = 0; channel < 4; channel++) {
        canvas.data[to + channel] = picture.data[from + channel] ?? 255;
      }
    }
  }
}

/** Breaks text into lines of the cell's width, at spaces where there are any. */
export function wrapCaption(text: string, width = LETTERS_A_LINE): string[] {
  const lines: string[] = [];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else lines.push(word);
  }
  return lines;
}

/** One PNG with a row of captioned pictures for each group, on white. */
export function contactSheet(rows: readonly (readonly SheetCell[])[]): Buffer {
  const columns = Math.max(1, ...rows.map((row) => row.length));
  const cellHeight = CELL_WIDTH + CAPTION_LINES * LINE_HEIGHT + MARGIN;
  const sheet = new PNG({
    width: MARGIN + columns * (CELL_WIDTH + MARGIN),
    height: MARGIN + Math.max(1, rows.length) * (cellHeight + MARGIN),
  });
  fillRectangle(sheet, 0, 0, [sheet.width, sheet.height]);
  rows.forEach((row, rowIndex) => {
    row.forEach((cell, columnIndex) => {
      const left = MARGIN + columnIndex * (CELL_WIDTH + MARGIN);
      const top = MARGIN + rowIndex * (cellHeight + MARGIN);
      drawPicture(sheet, left, top, PNG.sync.read(cell.png));
      const lines = cell.caption.flatMap((line) => wrapCaption(line)).slice(0, CAPTION_LINES);
      lines.forEach((line, index) => {
        drawText(sheet, left, top + CELL_WIDTH + 6 + index * LINE_HEIGHT, line);
      });
    });
  });
  return PNG.sync.write(sheet);
}
