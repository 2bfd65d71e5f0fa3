// ollama for Node: the list, chat, a stream, embeddings, an error.
import assert from "node:assert/strict";
import { Ollama } from "ollama";

const client = new Ollama({ host: process.env.BASE_URL, headers: { Authorization: `Bearer ${process.env.KEY}` } });
const question = { model: "demo", messages: [{ role: "user", content: "Hello!" }], options: { num_predict: 4 } };

assert((await client.list()).models.some((model) => model.name === "demo:latest"));
assert.equal((await client.chat(question)).eval_count, 4);
let last;
for await (const part of await client.chat({ ...question, stream: true })) last = part;
assert.equal(last.eval_count, 4);
assert.equal((await client.embed({ model: "embedder", input: ["one", "two"] })).embeddings.length, 2);
await assert.rejects(client.chat({ ...question, model: "nosuch" }), { status_code: 404, message: /nosuch/ });
