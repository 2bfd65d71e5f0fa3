// Vercel's `ai` with its provider for OpenAI-compatible servers.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, streamText } from "ai";

const provider = createOpenAICompatible({ name: "proxy", baseURL: process.env.BASE_URL + "/v1", apiKey: process.env.KEY });
const question = { model: provider("demo"), prompt: "Hello!", maxOutputTokens: 4, maxRetries: 0 };

assert.equal((await generateText(question)).usage.outputTokens, 4);
const stream = streamText(question);
for await (const part of stream.textStream) assert.equal(typeof part, "string");
assert.equal(await stream.finishReason, "length");
const { embeddings } = await embedMany({ model: provider.embeddingModel("embedder"), values: ["one", "two"] });
assert.equal(embeddings.length, 2);
await assert.rejects(generateText({ ...question, model: provider("nosuch") }), { statusCode: 404 });
