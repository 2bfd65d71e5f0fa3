// A page in chromium, of another origin: the list, a stream, and an error, all by fetch with a key.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
try {
  const page = await browser.newPage();
  await page.goto(process.env.PAGE_URL);
  const seen = await page.evaluate(async ([base, key]) => {
    const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
    const chat = (model) =>
      fetch(base + "/v1/chat/completions", {
        method: "POST",
        headers,
        body: JSON.stringify({ model, stream: true, max_tokens: 4, messages: [{ role: "user", content: "Hello!" }] }),
      });
    const list = await (await fetch(base + "/v1/models", { headers })).json();
    const [stream, error] = [await chat("demo"), await chat("nosuch")];
    return {
      ids: list.data.map((model) => model.id),
      done: (await stream.text()).endsWith("data: [DONE]\n\n"),
      model: stream.headers.get("x-llama-smart-proxy-model"),
      status: error.status,
      code: (await error.json()).error.code,
    };
  }, [process.env.BASE_URL, process.env.KEY]);
  assert(seen.ids.includes("demo"));
  assert.deepEqual([seen.done, seen.model, seen.status, seen.code], [true, "demo", 404, "model_not_found"]);
} finally {
  await browser.close();
}
