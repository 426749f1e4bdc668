// A client of the server that stdin describes, and steps that say what they came to.

import { readFileSync } from "node:fs";
import Replicate from "replicate";

export const given = JSON.parse(readFileSync(0, "utf8"));

export function connect(options = {}) {
  return new Replicate({ auth: given.token, baseUrl: given.baseUrl, ...options });
}

export const client = connect();

/** Print what `work` gives under a name, or the error that it throws. */
export async function step(name, work) {
  let result;
  try {
    result = (await work()) ?? null;
  } catch (error) {
    result = { error: error.message, status: error.response?.status ?? null };
  }
  console.log(JSON.stringify({ [name]: result }));
  return result;
}

export const version = (reference) => reference.split(":")[1];

export const text = async (url) => (await fetch(url)).text();

export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** A training or prediction when it is over. */
export async function ended(kind, run) {
  while (["starting", "processing"].includes(run.status)) {
    await pause(20);
    run = await client[kind].get(run.id);
  }
  return run;
}
