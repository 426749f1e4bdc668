// Files on their way in: uploads, and inputs in every form that the client takes.

import { client, connect, given, step, text } from "./steps.mjs";

const INK = "ink \u00e9\r\n--not a boundary";
const forms = {
  buffer: Buffer.from(INK),
  blob: new Blob([INK], { type: "text/plain" }),
  file: new File([INK], "encre \u00e9.txt", { type: "text/plain" }),
};

const copied = async (replicate, paper) =>
  text(await replicate.run(given.copier, { input: { paper } }));

for (const [form, paper] of Object.entries(forms)) {
  for (const fileEncodingStrategy of ["default", "upload"]) {
    await step(`${form} ${fileEncodingStrategy}`, () =>
      copied(connect({ fileEncodingStrategy }), paper),
    );
  }
}

// By default, what cannot be uploaded goes in as a data: URI.
const withoutUploads = connect({
  fetch: async (url, init) =>
    url.pathname.endsWith("/files") ? new Response("", { status: 503 }) : fetch(url, init),
});
await step("data uri", () => copied(withoutUploads, forms.file));

await step("upload", () => client.files.create(forms.file, { kind: "draft" }));
await step("upload of a buffer", () => client.files.create(forms.buffer));
await step("stored", async () => {
  const file = await client.files.create(forms.file);
  const found = await client.files.get(file.id);
  const listed = (await client.files.list()).results.some(({ id }) => id === file.id);
  const deleted = await client.files.delete(file.id);
  return { same: JSON.stringify(found) === JSON.stringify(file), listed, deleted };
});
await step("gone", async () => {
  const { id } = await client.files.create(forms.file);
  await client.files.delete(id);
  return client.files.get(id);
});
