// A stream whose llama-server is killed rejects in every library, so that nobody takes a part for the whole.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";

const { BASE_URL, KEY } = process.env;
const headers = { Authorization: `Bearer ${KEY}` };
const openai = new OpenAI({ baseURL: BASE_URL + "/v1", apiKey: KEY, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: BASE_URL, apiKey: KEY, maxRetries: 0 });
const proxy = createOpenAICompatible({ name: "proxy", baseURL: BASE_URL + "/v1", apiKey: KEY });
const ATTEMPTS = 10; // the demo model's answers are short: some end before the server is killed
const question = (number) => ({
  model: "fragile",
  stream: true,
  max_tokens: 3000,
  messages: [{ role: "user", content: `Hello ${number} from Node!` }],
});

// Each yields whether the end has been seen.
const streams = {
  async *openai(number) {
    for await (const chunk of await openai.chat.completions.create(question(number)))
      yield Boolean(chunk.choices[0]?.finish_reason);
  },
  async *anthropic(number) {
    for await (const event of await anthropic.messages.create(question(100 + number))) yield event.type === "message_delta";
  },
  async *ollama(number) {
    const client = new Ollama({ host: BASE_URL, headers });
    for await (const part of await client.generate({ model: "fragile", stream: true, prompt: `Twice ${number}` })) yield part.done;
  },
  async *ai(number) {
    const { fullStream } = streamText({ model: proxy("fragile"), prompt: `Thrice ${number}`, maxRetries: 0, onError() {} });
    for await (const part of fullStream) {
      if (part.type === "error") throw part.error;
      if (part.type === "text-delta" || part.type === "finish") yield part.type === "finish";
    }
  },
};

async function serverPid() {
  await openai.completions.create({ model: "fragile", prompt: "Hello!", max_tokens: 1 }); // loads it
  const { servers } = await (await fetch(BASE_URL + "/health", { headers })).json();
  return servers.find((each) => each.model_id === "fragile" && each.state === "ready").process;
}

async function isCut(name, number) {
  const pid = await serverPid();
  let count = 0;
  let isWhole = false;
  try {
    for await (const isLast of streams[name](number)) {
      isWhole ||= isLast;
      if (count++ === 0) process.kill(pid, "SIGKILL");
    }
  } catch (error) {
    assert(count > 0, error);
    return true;
  }
  assert(isWhole, `${name}: a cut stream ended as if whole`);
  return false;
}

for (const name of Object.keys(streams)) {
  let number = 0;
  while (!(await isCut(name, number))) assert(++number < ATTEMPTS, `${name}: no stream was cut`);
}
