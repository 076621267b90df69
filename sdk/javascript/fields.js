// The fields of a JSON object: a plugin's parameters, or the arguments of a tool; and what all kinds of plugins share.

import { write } from 'membrane:plugin/log@0.1.0';

// The interpreter has no `console`; this one writes to the plugin's log.
const LEVELS = { debug: 'debug', log: 'info', info: 'info', warn: 'warning', error: 'warning' };
const shown = (value) => (typeof value === 'string' ? value : value instanceof Error ? String(value) : JSON.stringify(value));
const writer = ([name, level]) => [name, (...values) => write(level, values.map((value) => shown(value) ?? 'undefined').join(' '))];
globalThis.console = Object.fromEntries(Object.entries(LEVELS).map(writer));

/** Reads fields one by one, each as often as one likes; what is wrong is thrown as a sentence that names the field. */
export class Fields {
  #what;
  #values;
  #read = new Set();

  /** `what` begins every sentence; `json` is the text of an object. */
  constructor(what, json) {
    this.#what = what;
    const value = JSON.parse(json);
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      throw `${what}: is no JSON object`;
    }
    this.#values = new Map(Object.entries(value));
  }

  /** Whether the field is there. */
  has(name) {
    return this.#values.has(name);
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

  /** The names of the fields that were not read. */
  unread() {
    return [...this.#values.keys()].filter((name) => !this.#read.has(name));
  }

  /** Throws if a field was not read: "unknown field `x`". */
  end() {
    this.#refuse(this.unread());
  }

  /** Throws if there is a field of another name, in the same words. */
  only(names) {
    this.#refuse([...this.#values.keys()].filter((name) => !names.includes(name)));
  }

  #refuse(names) {
    for (const name of names) {
      throw `${this.#what}: unknown field \`${name}\``;
    }
  }

  #take(name, otherwise, fits, wrong) {
    this.#read.add(name);
    if (!this.#values.has(name)) {
      if (otherwise === undefined) {
        throw `${this.#what}: missing field \`${name}\``;
      }
      return otherwise;
    }
    const value = this.#values.get(name);
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

/** What else than a text was given, by type. */
const KINDS = { undefined: 'undefined', object: 'an object', function: 'a function', symbol: 'a symbol' };

/** What a function of a plugin gave, as a text: it must be one, or a number, or true or false. */
export function textual(name, value) {
  const kind = KINDS[typeof settled(name, value)];
  if (kind) {
    throw `${name}: gives ${value === null ? 'null' : kind} in place of a text`;
  }
  return String(value);
}

/** Runs `body`; what it throws becomes a text, which is what the contract takes. */
export function saying(body) {
  try {
    return body();
  } catch (error) {
    throw typeof error === 'string' ? error : String(error?.message ?? error);
  }
}
