// Standard input: a JSON list of pictures, each with width, height and its grey dots in base64. Standard output: for each, what zbar reads.
import { scanGrayBuffer } from "@undecaf/zbar-wasm";
import { text } from "node:stream/consumers";

const read = [];
for (const { width, height, dots } of JSON.parse(await text(process.stdin))) {
  const grey = Uint8Array.from(Buffer.from(dots, "base64"));
  const symbols = await scanGrayBuffer(grey.buffer, width, height);
  read.push(symbols.map((symbol) => [symbol.typeName, symbol.decode()]));
}
process.stdout.write(JSON.stringify(read), () => process.exit(0));
