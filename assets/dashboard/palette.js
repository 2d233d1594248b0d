/** Colours of clients and letters of LoRAs: given once, kept while the page is open. */
const CLIENT_COLORS = 8;
/** Sessions of the past whose names are still known. */
const NAMES_MAX = 1000;
const names = new Map();
/** Sessions that are there, by the name they are shown under. */
const owners = new Map();
const colors = new Map();
const letters = new Map();

/** Two clients of one name are told apart by a number, while both are there. */
export function learnSession(id, name) {
  if (names.has(id)) return;
  let alias = name;
  for (let number = 2; owners.has(alias); number++) alias = `${name} (${number})`;
  owners.set(alias, id);
  names.set(id, alias);
  if (names.size > NAMES_MAX) names.delete(names.keys().next().value);
}

/** What it did stays in the picture under its name; the next client of that name takes its lane. */
export function forgetSession(id) {
  if (owners.get(names.get(id)) === id) owners.delete(names.get(id));
}

export function sessionName(id) {
  return names.get(id) ?? id.slice(0, 6);
}

/** Number of the colour (1 to 8) of a client; the same name gets the same colour again. */
export function colorOf(session) {
  const name = sessionName(session);
  if (!colors.has(name)) colors.set(name, (colors.size % CLIENT_COLORS) + 1);
  return colors.get(name);
}

/** A, B, ... Z, then a, b, ...: the LoRA's letter in the strip. */
export function letterOf(lora) {
  if (!letters.has(lora)) {
    const at = letters.size;
    letters.set(lora, at < 26 ? String.fromCharCode(65 + at) : String.fromCharCode(97 + (at % 26)));
  }
  return letters.get(lora);
}

export function knownLetters() {
  return [...letters];
}
