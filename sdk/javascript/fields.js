// The fields of a JSON object: a plugin's parameters, or the arguments of a tool; and what all kinds of plugins share.

import { write } from 'membrane:plugin/log@0.1.0';

// The interpreter has no `console`; this one writes to the plugin's log.
const LEVELS = { debug: 'debug', log: 'info', info: 'info', warn: 'warning', error: 'warning' };
const shown = (value) => (typeof value === 'string' ? value : value instanceof Error ? String(value) : JSON.stringify(value));
const writer = ([name, level]) => [name, (...values) => write(level, values.map((value) => shown(value) ?? 'undefined').join(' '))];
globalThis.console = Object.fromEntries(Object.entries(LEVELS).map(writer));

/** Reads fields one by one; what is wrong is thrown as a sentence that names the field. */
export class Fields {
  #what;
  #left;

  /** `what` begins every sentence; `json` is the text of an object. */
  constructor(what, json) {
    this.#what = what;
    const value = JSON.parse(json);
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      throw `${what}: is no JSON object`;
    }
    this.#left = new Map(Object.entries(value));
  }

  /** Whether the field is there and not read yet. */
  has(name) {
    return this.#left.has(name);
  }

  /** A text. Without a default the field must be there. */
  text(name, otherwise) {
    return this.#take(name, otherwise, (value) => typeof value === 'string', 'is not a text');
  }

  /** True or false. */
  flag(name, otherwise) {
    return this.#take(name, otherwise, (value) => typeof value === 'boolean', 'is neither true nor false');
  }

  /** A whole number between two others. */
  integer(name, otherwise, least, most) {
    const value = this.#take(name, otherwise, Number.isSafeInteger, 'is not a whole number');
    return this.#between(name, value, least, most);
  }

  /** A number between two others. */
  number(name, otherwise, least, most) {
    const value = this.#take(name, otherwise, Number.isFinite, 'is not a number');
    return this.#between(name, value, least, most);
  }

  /** A list of texts. Without a default the field must be there. */
  texts(name, otherwise) {
    const fits = (value) => Array.isArray(value) && value.every((text) => typeof text === 'string');
    return this.#take(name, otherwise, fits, 'is not a list of texts');
  }

  /** Throws if a field was not read: "unknown field `x`". */
  end() {
    for (const name of this.#left.keys()) {
      throw `${this.#what}: unknown field \`${name}\``;
    }
  }

  #take(name, otherwise, fits, wrong) {
    if (!this.#left.has(name)) {
      if (otherwise === undefined) {
        throw `${this.#what}: missing field \`${name}\``;
      }
      return otherwise;
    }
    const value = this.#left.get(name);
    this.#left.delete(name);
    if (!fits(value)) {
      throw `${this.#what}: ${name}: ${wrong}`;
    }
    return value;
  }

  #between(name, value, least, most) {
    if (value < least || value > most) {
      throw `${this.#what}: ${name}: ${value} is not between ${least} and ${most}`;
    }
    return value;
  }
}

/** What a function of a plugin gave, which must be there at once: the host does not wait for promises. */
export function settled(name, value) {
  if (typeof value?.then === 'function') {
    throw `${name}: gives a promise; write it without \`async\` and \`await\``;
  }
  return value;
}

/** Runs `body`; what it throws becomes a text, which is what the contract takes. */
export function saying(body) {
  try {
    return body();
  } catch (error) {
    throw typeof error === 'string' ? error : String(error?.message ?? error);
  }
}
