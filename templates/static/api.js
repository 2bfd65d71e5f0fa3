// Requests to the service. Addresses are relative to the page, which may be below a sub-path of another server.

export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// GET, or POST with a body. Returns the Response of a 2xx; throws an ApiError with the service's own message.
export async function call(path, { body, signal } = {}) {
  const options = { signal, cache: "no-store" };
  if (body !== undefined) {
    const headers = { "Content-Type": "application/json" };
    Object.assign(options, { method: "POST", body: JSON.stringify(body), headers });
  }
  const response = await fetch(path, options).catch((problem) => {
    throw problem.name === "AbortError" ? problem : new ApiError("The service does not answer.", 0, "");
  });
  if (response.ok) return response;
  throw await errorOf(response);
}

async function errorOf(response) {
  const text = await response.text().catch(() => "");
  try {
    const { message, code } = JSON.parse(text).error;
    return new ApiError(message, response.status, code);
  } catch {
    return new ApiError(`The answer was HTTP ${response.status}.`, response.status, "");
  }
}
