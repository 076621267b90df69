// What a tool is made of: `export const toolPlugin = tools((parameters) => [{ name, description, parameters, call }])`.

import { Fields, saying, settled } from './fields.js';

export * as log from 'membrane:plugin/log@0.1.0';

/**
 * Tools as the contract has them. `start` gets the parameters as `Fields` and gives a list of tools, each with `name`,
 * `description`, `parameters` (JSON Schema of the arguments, an object) and `call(args)`, which gets the arguments as
 * `Fields` and gives a text for the model. What it throws is told to the model.
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
        const result = settled(name, tool.call(fields));
        fields.end();
        return String(result);
      });
    },
  };
}
