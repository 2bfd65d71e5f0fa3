// The base URL and the snippets: corrected to the address by which the page was reached, with tabs and copy buttons.

import { startCopyButtons } from "./copy.js";
import { makeTabs } from "./tabs.js";

export function startConnect() {
  const root = document.getElementById("connect");
  if (!("public" in root.dataset)) correctAddress(root);
  root.querySelectorAll("[data-tabs]").forEach(makeTabs);
  startCopyButtons(root);
}

// Below a sub-path, or behind HTTPS, only the page knows the whole address.
function correctAddress(root) {
  const rendered = root.dataset.url, actual = shellSafe(new URL(".", document.baseURI).href.replace(/\/$/, ""));
  if (rendered === actual) return;
  for (const each of root.querySelectorAll("pre, #base-url")) {
    each.textContent = each.textContent.replaceAll(rendered, actual);
  }
}

// The snippets have the URL without quotes.
function shellSafe(url) {
  return url.replace(/[^\w@%+=:,.\/\[\]-]/g, (sign) => encodeURIComponent(sign).replace(/[!'()*~]/g, hex));
}

function hex(sign) {
  return `%${sign.charCodeAt(0).toString(16).toUpperCase()}`;
}
