// What a tool is made of: `export const toolPlugin = tools((parameters) => [{ name, description, parameters, call }])`.

import { Fields, saying, textual } from './fields.js';
import { write } from 'membrane:plugin/log@0.1.0';

export * as log from 'membrane:plugin/log@0.1.0';

/** Keywords by which a schema may allow arguments that its `properties` does not name, unless they are false. */
const OPENING = [
  'additionalProperties', 'unevaluatedProperties', '$ref', '$dynamicRef', 'allOf', 'anyOf', 'oneOf', 'if', 'then', 'else',
  'dependentSchemas',
];

/** The arguments that a schema names, where it allows no others. */
function named(schema) {
  if (Object.hasOwn(schema, 'patternProperties')) {
    return undefined;
  }
  const closed = schema.additionalProperties === false;
  const opens = OPENING.some((word) => (schema[word] ?? false) !== false);
  return closed || (!opens && schema.properties) ? Object.keys(schema.properties ?? {}) : undefined;
}

/**
 * Tools as the contract has them. `start` gets the parameters as `Fields` and gives a list of tools, each with `name`,
 * `description`, `parameters` (JSON Schema of the arguments, an object) and `call(args)`, which gets the arguments as
 * `Fields` and gives a text for the model; a number, true and false become one, and anything else is an error. What it throws
 * is told to the model.
 *
 * Where the schema has `properties` and nothing that allows others, such as `additionalProperties: true`, arguments that it
 * does not name are refused before the call. Elsewhere an argument that the call did not read is a warning in the log.
 */
export function tools(start) {
  let offered = [];
  return {
    configure(parameters) {
      return saying(() => {
        const fields = new Fields('parameters', parameters);
        offered = start(fields);
        fields.end();
      });
    },
    describe() {
      const shown = ({ name, description, parameters }) => ({ name, description, parameters: JSON.stringify(parameters) });
      return offered.map(shown);
    },
    call(name, args) {
      return saying(() => {
        const tool = offered.find((tool) => tool.name === name);
        const fields = new Fields('arguments', args);
        const names = named(tool.parameters);
        if (names) {
          fields.only(names);
        }
        const result = textual(name, tool.call(fields));
        // It has had its effect: what is wrong now does not take its result away.
        for (const argument of names ? [] : fields.unread()) {
          write('warning', `${name}: did not read the argument \`${argument}\``);
        }
        return result;
      });
    },
  };
}
