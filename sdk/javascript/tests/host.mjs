// A host that does nothing but keep the log, for what of the SDK runs outside of one. It is imported before anything of the SDK, which
// is imported by `await import`.

import { register } from 'node:module';

/** The lines of the log: each a level and a text. */
export const lines = (globalThis.lines = []);

const INTERFACES = `
export const write = (level, text) => globalThis.lines.push([level, text]);
export const call = () => '', available = () => [], model = () => ({});
export class Session {}
`;
const RESOLVE = `export async function resolve(name, context, next) {
  return name.startsWith('membrane:')
    ? { url: ${JSON.stringify(`data:text/javascript,${encodeURIComponent(INTERFACES)}`)}, format: 'module', shortCircuit: true }
    : { ...(await next(name, context)), format: 'module' };
}`;
register(`data:text/javascript,${encodeURIComponent(RESOLVE)}`);

/** What `body` throws; nothing if it goes well. */
export function thrown(body) {
  try {
    body();
    return '';
  } catch (error) {
    return String(error);
  }
}
