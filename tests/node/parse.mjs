// Standard input: a JSON list of Mermaid texts. Standard output: for each, null, or why the real parser does not take it.
import { JSDOM } from "jsdom";
import { text } from "node:stream/consumers";

const page = new JSDOM("<!doctype html><body></body>");
globalThis.window = page.window;
globalThis.document = page.window.document;
const { default: mermaid } = await import("mermaid");

const results = [];
for (const diagram of JSON.parse(await text(process.stdin))) {
  try {
    await mermaid.parse(diagram);
    results.push(null);
  } catch (error) {
    results.push(String(error.message ?? error));
  }
}
process.stdout.write(JSON.stringify(results), () => process.exit(0));
