// Reads an AsyncAPI document with the parser of the AsyncAPI Initiative and says everything that is wrong with it.
// node validate.mjs <file>; fails where there is an error or a warning.
import { readFileSync } from 'node:fs';
import { Parser } from '@asyncapi/parser';

const LEVELS = ['error', 'warning', 'information', 'hint'];
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));
const said = (found) => `${LEVELS[found.severity]}: ${found.path.join('/')}: ${found.message}`;
diagnostics.forEach((found) => console.error(said(found)));
if (document === undefined || diagnostics.some((found) => found.severity < 2)) {
  process.exit(1);
}
const count = (all) => all.all().length;
console.log(JSON.stringify({
  version: document.version(),
  channels: count(document.channels()),
  operations: count(document.operations()),
  messages: count(document.components().messages()),
}));
