// Standard input: a JSON list of labels, each with its ZPL and a printer's dots per millimetre. Standard output: for each, what the printer prints, as a PNG in base64.
import { ready } from "zpl-renderer-js";
import { text } from "node:stream/consumers";

const { api } = await ready;
const printed = [];
for (const { zpl, dots } of JSON.parse(await text(process.stdin))) {
  printed.push(await api.zplToBase64Async(zpl, 101.6, 152.4, dots));
}
process.stdout.write(JSON.stringify(printed), () => process.exit(0));
