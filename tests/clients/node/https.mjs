// Outputs that come over https, where the client makes file outputs of them.

import { connect, given, step } from "./steps.mjs";

const client = connect({ baseUrl: given.httpsUrl });

await step("file output", async () => {
  const output = await client.run(given.painter, { input: {} });
  return { url: String(output[0]), text: await (await output[0].blob()).text() };
});
await step("input again", async () => {
  const [picture] = await client.run(given.painter, { input: {} });
  const copy = await client.run(given.copier, { input: { paper: String(picture) } });
  return (await copy.blob()).text();
});
